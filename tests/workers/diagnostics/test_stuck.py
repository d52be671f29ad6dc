"""What nobody carries is found, and only that."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, insert, update

from ingest.config.settings import load_settings
from ingest.inbox.rows import open_for_inserts, row_of, upsert_rows
from ingest.inbox.schema import FILE_NAME
from ingest.queue.batch import Delivery, ack_key, batch_key, lease_key
from ingest.queue.queues import queue
from ingest.relay.outbox import Outbox
from ingest.relay.publisher import BatchPublisher
from ingest.wire.envelope import Envelope, Kind
from workers.diagnostics import stuck as room
from workers.diagnostics.stuck import (
    AT_WORK_FOR,
    REDELIVERY_DEADLINE,
    StuckItem,
    StuckReason,
    find_stuck,
    other_inboxes,
    overdue_pushes,
)
from workers.ledger import deliveries, runs
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.runs import NewRun
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.core import deliveries as deliveries_table
from workers.ledger.tables.core import pushes

BODY = b'{"event": "SESSION_STARTED", "payload": {"sessionId": "S1", "timestamp": "2026-05-04T10:00:00Z"}}'
LONG_AGO = datetime(2026, 5, 4, tzinfo=UTC)
Find = Callable[..., list[StuckItem]]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with contextlib.closing(open_for_inserts(tmp_path / FILE_NAME)) as file:
        upsert_rows(file, [row_of(Envelope(Kind.EVENTS, BODY, datetime.now(UTC), "current", None, {}))])
    with contextlib.closing(Outbox(tmp_path / FILE_NAME)) as outbox:
        yield outbox


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def find(engine: Engine, valkey: redis.Redis, outbox: Outbox) -> Find:
    """Look for longer than a job may be silent."""
    usual = {"patience": timedelta(seconds=1), "grace": timedelta(seconds=0.2), "sleep": lambda _s: time.sleep(0.05)}
    return lambda **parts: find_stuck(engine, valkey, outbox, **{**usual, **parts})


def offer(outbox: Outbox, valkey: redis.Redis) -> str:
    offers = BatchPublisher(outbox, valkey, load_settings())
    offers.publish([outbox.next_batch("sessions", 1, 1000)])
    return offers.in_flight[0].batch_id


def run(engine: Engine, outcome: Outcome, **parts: object) -> None:
    row = {"delivery_id": "d1", "handler": "warn", "queue": "urgent", "outcome": outcome, **parts}
    with engine.begin() as ledger:
        runs.insert_runs(ledger, [NewRun(**row)])


def test_what_is_on_a_queue_is_not_adrift(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    offer(outbox, valkey)
    assert find(patience=timedelta(minutes=5)) == []


def test_a_batch_that_redis_has_forgotten_is_adrift(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    batch_id = offer(outbox, valkey)
    valkey.flushall()
    assert find() == [StuckItem(StuckReason.BATCH, batch_id)]


def test_a_batch_that_beats_is_not(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    batch_id = offer(outbox, valkey)
    queue("sessions", valkey).empty()
    assert find(sleep=lambda _seconds: valkey.incr(lease_key(batch_id)), patience=timedelta(milliseconds=200)) == []


def test_what_is_settled_while_one_looks_is_not(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    batch_id = offer(outbox, valkey)
    valkey.flushall()
    assert not valkey.exists(batch_key(batch_id))
    assert find(sleep=lambda _seconds: outbox.settle([batch_id]), patience=timedelta(minutes=5)) == []


def test_a_delivery_that_waits_for_an_empty_queue_is_adrift(find: Find) -> None:
    (found,) = find(patience=timedelta(milliseconds=10), sleep=lambda _seconds: None)
    assert (found.trouble, found.name.partition(" ")[0]) == (StuckReason.WAITING, "sessions")


def test_runs_are_adrift_when_due_without_a_job_or_when_nobody_has_their_job(
    find: Find, engine: Engine, outbox: Outbox, valkey: redis.Redis
) -> None:
    offer(outbox, valkey)
    run(engine, Outcome.AGAIN, attempts=1, due_at=LONG_AGO)
    run(engine, Outcome.RUNNING, handler="note", attempts=1, job_id="job-1", started_at=LONG_AGO)
    run(engine, Outcome.WAITING, handler="later", due_at=datetime.now(UTC) + timedelta(hours=1))
    assert find() == [StuckItem(StuckReason.DUE, "d1 warn attempt 2"), StuckItem(StuckReason.RUN, "job-1")]


def store(engine: Engine, like: Delivery, *names_and_inboxes: tuple[str, str]) -> None:
    """Store deliveries that are at work."""
    fields = {field: getattr(like, field) for field in like.__slots__}
    rows = [Delivery(**fields | {"id": name, "inbox": inbox}) for name, inbox in names_and_inboxes]
    with engine.begin() as ledger:
        deliveries.store(ledger, rows, {row.id: (DeliveryState.RUNNING, None) for row in rows})


def test_a_delivery_at_work_of_which_the_inbox_knows_nothing_is_adrift(
    find: Find, engine: Engine, outbox: Outbox, valkey: redis.Redis
) -> None:
    offer(outbox, valkey)
    (mine,) = outbox.unsettled()
    names = ((mine.delivery.id, outbox.inbox_id), ("lost", outbox.inbox_id), ("theirs", "another"))
    store(engine, mine.delivery, *names)
    found = find(patience=timedelta(milliseconds=10), sleep=lambda _seconds: None)
    assert found == [StuckItem(StuckReason.ORPHAN, "lost")]


def test_what_was_acknowledged_and_is_nowhere_is_lost(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    (mine,) = outbox.unsettled()
    batch_id = offer(outbox, valkey)
    valkey.rpush(ack_key(outbox.inbox_id), batch_id)
    BatchPublisher(outbox, valkey, load_settings()).poll()
    assert find() == [StuckItem(StuckReason.LOST, mine.delivery.id)]


def test_what_is_lost_stays_so_when_it_comes_again(
    find: Find, outbox: Outbox, valkey: redis.Redis, tmp_path: Path
) -> None:
    (mine,) = outbox.unsettled()
    outbox.settle([offer(outbox, valkey)])
    with contextlib.closing(open_for_inserts(tmp_path / FILE_NAME)) as file:
        upsert_rows(file, [row_of(Envelope(Kind.EVENTS, BODY, datetime.now(UTC), "current", None, {}))])
    assert outbox.waiting_count() == 1
    assert StuckItem(StuckReason.LOST, mine.delivery.id) in find(patience=timedelta(milliseconds=10))


def test_what_the_ledger_has_is_not_lost_even_if_it_is_seen_there_only_later(
    find: Find, engine: Engine, outbox: Outbox, valkey: redis.Redis
) -> None:
    (mine,) = outbox.unsettled()
    outbox.settle([offer(outbox, valkey)])

    def settle(_seconds: float) -> None:
        store(engine, mine.delivery, (mine.delivery.id, outbox.inbox_id))
        run(engine, Outcome.DONE, delivery_id=mine.delivery.id, finished_at=LONG_AGO)

    assert find(sleep=settle, patience=timedelta(minutes=5)) == []
    assert find(patience=timedelta(minutes=5)) == []


def test_what_leaves_the_inbox_for_the_ledger_between_two_questions_is_no_suspect(
    find: Find, engine: Engine, outbox: Outbox, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine,) = outbox.unsettled()
    batch_id = offer(outbox, valkey)
    ask = outbox.settled

    def settle_then_ask(**parts: Any) -> list[str]:
        store(engine, mine.delivery, (mine.delivery.id, "another"))
        outbox.settle([batch_id])
        return ask(**parts)

    monkeypatch.setattr(outbox, "settled", settle_then_ask)
    assert find(sleep=lambda _seconds: pytest.fail("there was a suspect"), patience=timedelta(minutes=5)) == []


def test_the_memory_of_an_inbox_is_gone_through_in_parts_and_to_its_end(
    find: Find, engine: Engine, outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine,) = outbox.unsettled()
    names = [f"{number:032d}" for number in range(20)]
    with contextlib.closing(open_for_inserts(tmp_path / FILE_NAME)) as file:
        file.executemany("INSERT INTO seen (id, first_at) VALUES (?, 0)", [(name,) for name in names])
    store(engine, mine.delivery, *((name, "another") for name in names if name not in names[::6]))
    ask = outbox.settled
    monkeypatch.setattr(outbox, "settled", lambda *, after: ask(after=after, limit=3))

    def lost() -> list[str]:
        found = find(patience=timedelta(milliseconds=10), sleep=lambda _seconds: None)
        return [each.name for each in found if each.trouble is StuckReason.LOST]

    assert lost() == names[::6]
    monkeypatch.setattr(room, "MOST", 2)
    assert lost() == names[:7:6]


def test_a_long_first_look_does_not_spare_the_second(
    find: Find, outbox: Outbox, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "settled", lambda **_parts: time.sleep(0.1) or [])
    assert find(patience=timedelta(milliseconds=50), sleep=lambda _seconds: offer(outbox, valkey)) == []


def test_what_other_inboxes_left_at_work_is_told_after_an_hour(
    engine: Engine, outbox: Outbox, valkey: redis.Redis
) -> None:
    (mine,) = outbox.unsettled()
    names = [("theirs", "another"), ("fresh", "another"), ("has run", "another"), ("third", "a third")]
    store(engine, mine.delivery, *names, ("mine", outbox.inbox_id))
    run(engine, Outcome.RUNNING, delivery_id="has run", attempts=1, job_id="job-1", started_at=LONG_AGO)
    old = update(deliveries_table).where(deliveries_table.c.id != "fresh")
    with engine.begin() as ledger:
        assert other_inboxes(ledger, outbox) is None
        ledger.execute(old.values(stored_at=datetime.now(UTC) - 2 * AT_WORK_FOR))
    with read_only(engine) as ledger:
        found, everybodys = other_inboxes(ledger, outbox), other_inboxes(ledger, None)
    assert found is not None
    assert (found.count, found.examples, found.inboxes) == (2, ("theirs", "third"), ("a third", "another"))
    assert everybodys is not None
    assert everybodys.count == 3


def test_pushes_that_nobody_takes_are_told_by_channel(engine: Engine) -> None:
    now = datetime.now(UTC)
    row = {
        "delivery_id": "d1", "handler": "warn", "user_id": "driver", "state": "waiting", "title": "", "body": "",
        "payload": {}, "collapse_key": "", "created_at": LONG_AGO, "attempts": 0,
    }  # fmt: skip
    due = {
        "late": ("fcm", now - 3 * REDELIVERY_DEADLINE),
        "later": ("fcm", now - 6 * REDELIVERY_DEADLINE),
        "new": ("fcm", now),
        "claimed": ("log", now + REDELIVERY_DEADLINE),
    }
    with engine.begin() as ledger:
        ledger.execute(
            insert(pushes),
            [{**row, "id": name, "channel": channel, "due_at": due_at} for name, (channel, due_at) in due.items()],
        )
        (found,) = overdue_pushes(ledger)
    assert (found.channel, found.count, found.oldest) == ("fcm", 2, "later")
    assert found.due_for >= 6 * REDELIVERY_DEADLINE
