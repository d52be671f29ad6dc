"""Stuck work is found, and nothing else."""

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
from ingest.queue.redis_client import queue
from ingest.relay.outbox import Outbox
from ingest.relay.publisher import BatchPublisher
from ingest.wire.envelope import Envelope, Kind
from workers.diagnostics import stuck
from workers.diagnostics.stuck import (
    MAX_FIRST_RUN,
    REDELIVERY_DEADLINE,
    StuckItem,
    StuckReason,
    find_stuck,
    other_inboxes,
    overdue_pushes,
)
from workers.ledger import deliveries, runs
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.core_tables import deliveries as deliveries_table
from workers.ledger.tables.core_tables import pushes

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
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}", creates_file=True)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def find(engine: Engine, valkey: redis.Redis, outbox: Outbox) -> Find:
    """Find stuck work, with a grace that is shorter than the scans."""
    usual = {"patience": timedelta(seconds=1), "grace": timedelta(seconds=0.2), "sleep": lambda _s: time.sleep(0.05)}
    return lambda **parts: find_stuck(engine, valkey, outbox, **{**usual, **parts})


def publish(outbox: Outbox, valkey: redis.Redis) -> str:
    publisher = BatchPublisher(outbox, valkey, load_settings())
    publisher.publish([outbox.next_batch("sessions", 1, 1000)])
    return publisher.in_flight[0].batch_id


def run(engine: Engine, outcome: Outcome, **parts: object) -> None:
    row = {"delivery_id": "d1", "handler": "warn", "queue": "urgent", "outcome": outcome, **parts}
    with engine.begin() as ledger:
        runs.insert_runs(ledger, [RunRecord(**row)])


def test_a_queued_batch_is_not_stuck(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    publish(outbox, valkey)
    assert find(patience=timedelta(minutes=5)) == []


def test_a_batch_that_redis_lost_is_stuck(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    batch_id = publish(outbox, valkey)
    valkey.flushall()
    assert find() == [StuckItem(StuckReason.BATCH, batch_id)]


def test_a_batch_whose_lease_beats_is_not_stuck(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    batch_id = publish(outbox, valkey)
    queue("sessions", valkey).empty()
    assert find(sleep=lambda _seconds: valkey.incr(lease_key(batch_id)), patience=timedelta(milliseconds=200)) == []


def test_a_batch_that_is_settled_during_the_scan_is_not_stuck(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    batch_id = publish(outbox, valkey)
    valkey.flushall()
    assert not valkey.exists(batch_key(batch_id))
    assert find(sleep=lambda _seconds: outbox.settle([batch_id]), patience=timedelta(minutes=5)) == []


def test_a_delivery_that_waits_although_its_queue_is_empty_is_stuck(find: Find) -> None:
    (found,) = find(patience=timedelta(milliseconds=10), sleep=lambda _seconds: None)
    assert (found.reason, found.name.partition(" ")[0]) == (StuckReason.WAITING, "sessions")


def test_runs_are_stuck_when_due_without_a_job_or_when_their_job_is_lost(
    find: Find, engine: Engine, outbox: Outbox, valkey: redis.Redis
) -> None:
    publish(outbox, valkey)
    run(engine, Outcome.AGAIN, attempts=1, due_at=LONG_AGO)
    run(engine, Outcome.RUNNING, handler="note", attempts=1, job_id="job-1", started_at=LONG_AGO)
    run(engine, Outcome.WAITING, handler="later", due_at=datetime.now(UTC) + timedelta(hours=1))
    assert find() == [StuckItem(StuckReason.DUE, "d1 warn attempt 2"), StuckItem(StuckReason.RUN, "job-1")]


def store(engine: Engine, like: Delivery, *names_and_inboxes: tuple[str, str]) -> None:
    """Store running deliveries."""
    fields = {field: getattr(like, field) for field in like.__slots__}
    rows = [Delivery(**fields | {"id": name, "inbox": inbox}) for name, inbox in names_and_inboxes]
    with engine.begin() as ledger:
        deliveries.store(ledger, rows, {row.id: (DeliveryState.RUNNING, None) for row in rows})


def test_a_running_delivery_that_is_missing_from_its_inbox_is_stuck(
    find: Find, engine: Engine, outbox: Outbox, valkey: redis.Redis
) -> None:
    publish(outbox, valkey)
    (mine,) = outbox.unsettled()
    names = ((mine.delivery.id, outbox.inbox_id), ("lost", outbox.inbox_id), ("theirs", "another"))
    store(engine, mine.delivery, *names)
    found = find(patience=timedelta(milliseconds=10), sleep=lambda _seconds: None)
    assert found == [StuckItem(StuckReason.ORPHAN, "lost")]


def test_a_delivery_that_was_acknowledged_and_is_not_in_the_ledger_is_lost(
    find: Find, outbox: Outbox, valkey: redis.Redis
) -> None:
    (mine,) = outbox.unsettled()
    batch_id = publish(outbox, valkey)
    valkey.rpush(ack_key(outbox.inbox_id), batch_id)
    BatchPublisher(outbox, valkey, load_settings()).poll()
    assert find() == [StuckItem(StuckReason.LOST, mine.delivery.id)]


def test_a_lost_delivery_is_still_lost_when_a_duplicate_arrives(
    find: Find, outbox: Outbox, valkey: redis.Redis, tmp_path: Path
) -> None:
    (mine,) = outbox.unsettled()
    outbox.settle([publish(outbox, valkey)])
    with contextlib.closing(open_for_inserts(tmp_path / FILE_NAME)) as file:
        upsert_rows(file, [row_of(Envelope(Kind.EVENTS, BODY, datetime.now(UTC), "current", None, {}))])
    assert outbox.waiting_count() == 1
    assert StuckItem(StuckReason.LOST, mine.delivery.id) in find(patience=timedelta(milliseconds=10))


def test_a_delivery_that_reaches_the_ledger_during_the_scan_is_not_lost(
    find: Find, engine: Engine, outbox: Outbox, valkey: redis.Redis
) -> None:
    (mine,) = outbox.unsettled()
    outbox.settle([publish(outbox, valkey)])

    def settle(_seconds: float) -> None:
        store(engine, mine.delivery, (mine.delivery.id, outbox.inbox_id))
        run(engine, Outcome.DONE, delivery_id=mine.delivery.id, finished_at=LONG_AGO)

    assert find(sleep=settle, patience=timedelta(minutes=5)) == []
    assert find(patience=timedelta(minutes=5)) == []


def test_a_delivery_settled_between_two_queries_is_no_suspect(
    find: Find, engine: Engine, outbox: Outbox, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine,) = outbox.unsettled()
    batch_id = publish(outbox, valkey)
    real = outbox.settled

    def settle_first(**parts: Any) -> list[str]:
        store(engine, mine.delivery, (mine.delivery.id, "another"))
        outbox.settle([batch_id])
        return real(**parts)

    monkeypatch.setattr(outbox, "settled", settle_first)
    assert find(sleep=lambda _seconds: pytest.fail("there was a suspect"), patience=timedelta(minutes=5)) == []


def test_the_memory_of_an_inbox_is_read_in_pages_to_its_end(
    find: Find, engine: Engine, outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine,) = outbox.unsettled()
    names = [f"{number:032d}" for number in range(20)]
    with contextlib.closing(open_for_inserts(tmp_path / FILE_NAME)) as file:
        file.executemany("INSERT INTO seen (id, first_at) VALUES (?, 0)", [(name,) for name in names])
    store(engine, mine.delivery, *((name, "another") for name in names if name not in names[::6]))
    real = outbox.settled
    monkeypatch.setattr(outbox, "settled", lambda *, after: real(after=after, limit=3))

    def lost() -> list[str]:
        found = find(patience=timedelta(milliseconds=10), sleep=lambda _seconds: None)
        return [each.name for each in found if each.reason is StuckReason.LOST]

    assert lost() == names[::6]
    monkeypatch.setattr(stuck, "MAX_ROWS", 2)
    assert lost() == names[:7:6]


def test_a_slow_first_scan_is_followed_by_a_second(
    find: Find, outbox: Outbox, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "settled", lambda **_parts: time.sleep(0.1) or [])
    assert find(patience=timedelta(milliseconds=50), sleep=lambda _seconds: publish(outbox, valkey)) == []


def test_running_deliveries_of_other_inboxes_are_listed_after_an_hour(
    engine: Engine, outbox: Outbox, valkey: redis.Redis
) -> None:
    (mine,) = outbox.unsettled()
    names = [("theirs", "another"), ("fresh", "another"), ("has run", "another"), ("third", "a third")]
    store(engine, mine.delivery, *names, ("mine", outbox.inbox_id))
    run(engine, Outcome.RUNNING, delivery_id="has run", attempts=1, job_id="job-1", started_at=LONG_AGO)
    old = update(deliveries_table).where(deliveries_table.c.id != "fresh")
    with engine.begin() as ledger:
        assert other_inboxes(ledger, outbox) is None
        ledger.execute(old.values(stored_at=datetime.now(UTC) - 2 * MAX_FIRST_RUN))
    with read_only(engine) as ledger:
        found, of_all = other_inboxes(ledger, outbox), other_inboxes(ledger, None)
    assert found is not None
    assert (found.count, found.examples, found.inboxes) == (2, ("theirs", "third"), ("a third", "another"))
    assert of_all is not None
    assert of_all.count == 3


def test_overdue_pushes_are_listed_by_channel(engine: Engine) -> None:
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
