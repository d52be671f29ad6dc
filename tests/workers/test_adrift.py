"""What nobody carries is found, and only that."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from ingest.batch import batch_key, lease_key
from ingest.broker import queue
from ingest.envelope import Envelope, Kind
from ingest.inboxfile import FILE_NAME
from ingest.offer import Offers
from ingest.outbox import Outbox
from ingest.rows import keep_rows, open_for_keeping, row_of
from ingest.settings import load_settings
from workers.adrift import Adrift, Trouble, adrift
from workers.ledger import deliveries, runs
from workers.ledger.engine import open_ledger
from workers.ledger.outcomes import DeliveryState, Outcome
from workers.ledger.runs import NewRun
from workers.ledger.schema import metadata

BODY = b'{"event": "SESSION_STARTED", "payload": {"sessionId": "S1", "timestamp": "2026-05-04T10:00:00Z"}}'
LONG_AGO = datetime(2026, 5, 4, tzinfo=UTC)
Find = Callable[..., list[Adrift]]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with contextlib.closing(open_for_keeping(tmp_path / FILE_NAME)) as file:
        keep_rows(file, [row_of(Envelope(Kind.EVENTS, BODY, datetime.now(UTC), "current", None, {}))])
    with contextlib.closing(Outbox(tmp_path / FILE_NAME)) as outbox:
        yield outbox


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def find(engine: Engine, valkey: redis.Redis, outbox: Outbox) -> Find:
    """Look for longer than a job may be silent."""
    usual = {"patience": timedelta(seconds=1), "grace": timedelta(seconds=0.2), "sleep": lambda _s: time.sleep(0.05)}
    return lambda **parts: adrift(engine, valkey, outbox, **{**usual, **parts})


def offer(outbox: Outbox, valkey: redis.Redis) -> str:
    offers = Offers(outbox, valkey, load_settings())
    offers.offer([outbox.next("sessions", 1, 1000)])
    return offers.in_flight[0].batch_id


def run(engine: Engine, outcome: Outcome, **parts: object) -> None:
    row = {"delivery_id": "d1", "handler": "warn", "queue": "urgent", "outcome": outcome, **parts}
    with engine.begin() as ledger:
        runs.record_new(ledger, [NewRun(**row)])


def test_what_is_on_a_queue_is_not_adrift(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    offer(outbox, valkey)
    assert find(patience=timedelta(minutes=5)) == []


def test_a_batch_that_redis_has_forgotten_is_adrift(find: Find, outbox: Outbox, valkey: redis.Redis) -> None:
    batch_id = offer(outbox, valkey)
    valkey.flushall()
    assert find() == [Adrift(Trouble.BATCH, batch_id)]


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
    assert (found.trouble, found.name.partition(" ")[0]) == (Trouble.WAITING, "sessions")


def test_runs_are_adrift_when_due_without_a_job_or_when_nobody_has_their_job(
    find: Find, engine: Engine, outbox: Outbox, valkey: redis.Redis
) -> None:
    offer(outbox, valkey)
    run(engine, Outcome.AGAIN, attempts=1, due_at=LONG_AGO)
    run(engine, Outcome.RUNNING, handler="note", attempts=1, job_id="job-1", started_at=LONG_AGO)
    run(engine, Outcome.WAITING, handler="later", due_at=datetime.now(UTC) + timedelta(hours=1))
    assert find() == [Adrift(Trouble.DUE, "d1 warn attempt 2"), Adrift(Trouble.RUN, "job-1")]


def test_a_delivery_at_work_of_which_the_inbox_knows_nothing_is_adrift(
    find: Find, engine: Engine, outbox: Outbox, valkey: redis.Redis
) -> None:
    offer(outbox, valkey)
    (mine,) = outbox.unsettled()
    with engine.begin() as ledger:
        for name, inbox in ((mine.delivery.id, outbox.inbox_id), ("lost", outbox.inbox_id), ("theirs", "another")):
            parts = {"id": name, "inbox": inbox}
            row = type(mine.delivery)(
                **{field: getattr(mine.delivery, field) for field in mine.delivery.__slots__} | parts
            )
            deliveries.store(ledger, [row], {name: (DeliveryState.RUNNING, None)})
    found = find(patience=timedelta(milliseconds=10), sleep=lambda _seconds: None)
    assert found == [Adrift(Trouble.ORPHAN, "lost")]
