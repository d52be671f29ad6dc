"""Workers that merge the same sessions concurrently, on PostgreSQL."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from random import Random
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine

from handlers.kit.merge import merge, with_clock_skew
from handlers.kit.session import Session
from handlers.session_records import session_record
from ingest.events import (
    SessionComplete,
    SessionEvent,
    SessionFeeIncurring,
    SessionStarted,
    SessionStartFailed,
    SessionStopFailed,
    SessionStopped,
)
from workers.ledger import sessions
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.tables import metadata

AT = datetime(2026, 5, 4, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WORKERS = 4

# Few values, so that workers meet in the same sessions and facts all the time.
ids = st.sampled_from(["s1", "s2", "s3"])
times = st.integers(0, 12).map(lambda minutes: AT + minutes * MINUTE)
users = st.none() | st.sampled_from(["user1", "user2"])
kinds = st.sampled_from([SessionStarted, SessionStopped, SessionComplete, SessionStartFailed, SessionStopFailed])
events = st.builds(
    lambda kind, session_id, user, at: kind(session_id=session_id, user_id=user, at=at), kinds, ids, users, times
) | st.builds(
    lambda session_id, at, start: SessionFeeIncurring(
        session_id=session_id, at=at, fee_will_apply_from=start, fee_type="BLOCKING"
    ),
    ids,
    times,
    times,
)
histories = st.lists(events, min_size=1, max_size=30)


@pytest.fixture(scope="module")
def engine(postgres_server):
    uri = postgres_server.get_uri("postgres").replace("postgresql://", "postgresql+psycopg://", 1)
    admin = create_ledger_engine(uri)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE DATABASE concurrent_records")
    admin.dispose()
    engine = create_ledger_engine(uri.replace("/postgres?", "/concurrent_records?"))
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def fold(history: Sequence[SessionEvent]) -> dict[str, Session]:
    """What a batch of events says of its sessions, as a worker gathers it before it opens a transaction."""
    facts: dict[str, Session] = {}
    for event in history:
        known = facts.get(event.session_id, Session.empty(event.session_id))
        facts[event.session_id] = with_clock_skew(session_record(known, event), event.at, AT, 5 * MINUTE)
    return facts


def keep(ledger: Connection, facts: dict[str, Session], begun: Iterator[int]) -> None:
    next(begun)
    sessions.merge(ledger, {session_id: partial(merge, some) for session_id, some in facts.items()})


def work_at_once(engine: Engine, batches: Sequence[Sequence[Sequence[SessionEvent]]]) -> int:
    """Let every worker bring its batches to the ledger, all of them beginning together; errors come out here.

    Returns how many transactions were begun: as many as there are batches, unless the database broke one off.
    """
    ready, begun = Barrier(len(batches)), count(1)

    def one(mine: Sequence[Sequence[SessionEvent]]) -> None:
        ready.wait()
        for batch in mine:
            run_in_transaction(engine, partial(keep, facts=fold(batch), begun=begun))

    with ThreadPoolExecutor(len(batches)) as pool:
        list(pool.map(one, batches))
    return next(begun) - 1


def dealt(history: Sequence[SessionEvent], random: Random) -> list[list[list[SessionEvent]]]:
    """Deal events in any order to workers, in batches of a few, some of them twice."""
    cards = [*history, *random.sample(history, random.randrange(len(history) + 1))]
    random.shuffle(cards)
    hands: list[list[list[SessionEvent]]] = [[] for _ in range(WORKERS)]
    while cards:
        size = random.randint(1, 5)
        hands[random.randrange(WORKERS)].append(cards[:size])
        cards = cards[size:]
    return hands


def written(session: Session | None) -> str:
    return json.dumps(session and session.to_document())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories, st.data())
def test_records_of_concurrent_workers_equal_the_pure_fold(engine, history, data):
    random = data.draw(st.randoms(use_true_random=False))
    missing = set(data.draw(st.sets(st.integers(0, len(history) - 1))))
    first = [event for place, event in enumerate(history) if place not in missing]
    late = [event for place, event in enumerate(history) if place in missing]
    with engine.begin() as ledger:
        ledger.execute(metadata.tables["sessions"].delete())

    for part in filter(None, (first, late)):
        work_at_once(engine, dealt(part, random))

    with read_only(engine) as ledger:
        for session_id, record in fold(history).items():
            assert written(sessions.get(ledger, session_id)) == written(record)


def test_no_update_of_a_contended_session_is_lost(engine):
    """Every event is a user of its own, so a lost update would be a user who is missing."""
    everybody = [
        SessionStarted(session_id="crowded", user_id=f"user{number}", at=AT + number * MINUTE) for number in range(8)
    ]
    for _ in range(20):
        with engine.begin() as ledger:
            ledger.execute(metadata.tables["sessions"].delete())
        work_at_once(engine, [[[event]] for event in everybody])
        with read_only(engine) as ledger:
            assert set(sessions.get(ledger, "crowded").users) == {event.user_id for event in everybody}


def test_workers_with_the_same_sessions_in_any_order_do_not_deadlock(engine):
    crowd = [f"s{number:03}" for number in range(60)]
    history = [SessionStarted(session_id=name, user_id="user1", at=AT) for name in crowd]
    ends = [SessionStopped(session_id=name, user_id="user1", at=AT + MINUTE) for name in crowd]
    batches = [[history, ends], [history[::-1], ends[::-1]], [ends, history], [ends[::-1], history[::-1]]]

    assert work_at_once(engine, batches * 2) == 2 * sum(map(len, batches))

    expected = {name: written(record) for name, record in fold([*history, *ends]).items()}
    with read_only(engine) as ledger:
        assert {name: written(sessions.get(ledger, name)) for name in crowd} == expected
