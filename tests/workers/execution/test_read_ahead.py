"""A fee notice overtakes the events of its session that still wait: they are read ahead, from the inbox to the push."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from ingest.config.settings import Settings, load_settings
from ingest.inbox.rows import open_for_inserts, row_of, upsert_rows
from ingest.inbox.schema import FILE_NAME
from ingest.queue.batch import Batch, batch_key
from ingest.relay.outbox import Outbox
from ingest.relay.publisher import BatchPublisher
from ingest.wire.envelope import Envelope, Kind
from workers.execution.jobs import process_batch
from workers.ledger import deliveries, pushes, sessions
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.states import Outcome
from workers.ledger.tables import metadata
from workers.plugins import load_plugins
from workers.push.registry import open_channels
from workers.resources import Resources

SESSIONS = 50


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        data_dir=tmp_path, plugsurfing_hmac_current="key", database_url=f"sqlite:///{tmp_path / 'ledger.db'}"
    )


@pytest.fixture
def resources(settings: Settings, valkey: redis.Redis) -> Resources:
    engine = create_ledger_engine(settings.database_url, creates_file=True)
    metadata.create_all(engine)
    return Resources(settings, load_plugins(settings), engine, valkey, open_channels(settings))


@pytest.fixture
def outbox(settings: Settings) -> Iterator[Outbox]:
    with closing(Outbox(settings.data_dir / FILE_NAME)) as opened:
        yield opened


@pytest.fixture
def publisher(outbox: Outbox, valkey: redis.Redis, settings: Settings) -> BatchPublisher:
    return BatchPublisher(outbox, valkey, settings)


def keep(settings: Settings, bodies: Sequence[bytes]) -> list[str]:
    """Insert events into the inbox, in this order; return their ids."""
    with closing(open_for_inserts(settings.data_dir / FILE_NAME)) as file:
        envelopes = [Envelope(Kind.EVENTS, body, datetime.now(UTC), "current", None, {}) for body in bodies]
        upsert_rows(file, [row_of(envelope) for envelope in envelopes])
    return [envelope.id for envelope in envelopes]


def in_minutes(minutes: float) -> str:
    # From the test's own time: a whole run takes longer than a notice is good for after its module was imported.
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


def event(name: str, session_id: str, *, minutes: float, **more: str) -> bytes:
    payload = {"sessionId": session_id, "timestamp": in_minutes(minutes), **more}
    return json.dumps({"event": name, "payload": payload}).encode()


def started(session_id: str) -> bytes:
    return event("SESSION_STARTED", session_id, minutes=-30, userId=f"driver of {session_id}")


def completed(session_id: str) -> bytes:
    return event("SESSION_COMPLETE", session_id, minutes=-1)


def notice(session_id: str) -> bytes:
    return event("SESSION_FEE_INCURRING", session_id, minutes=-2, feeWillApplyFrom=in_minutes(20), feeType="BLOCKING")


def published(outbox: Outbox, publisher: BatchPublisher, valkey: redis.Redis, queue: str = "urgent") -> Batch:
    """Publish what waits on the queue, and return the batch as a worker reads it."""
    before = {each.batch_id for each in publisher.in_flight}
    publisher.publish([outbox.next_batch(queue, 500, 4_194_304)])
    (batch_id,) = {each.batch_id for each in publisher.in_flight} - before
    text = valkey.get(batch_key(batch_id))
    assert isinstance(text, bytes)
    return Batch.from_json(text)


def warned(resources: Resources) -> set[str]:
    with resources.engine.connect() as ledger:
        return {row.user_id for row in pushes.find(ledger)}


def test_no_driver_is_warned_of_a_session_whose_end_still_waits(
    resources: Resources, settings: Settings, outbox: Outbox, publisher: BatchPublisher, valkey: redis.Redis
) -> None:
    names = [f"S{number}" for number in range(SESSIONS)]
    keep(settings, [started(name) for name in names])
    process_batch(resources, published(outbox, publisher, valkey, "sessions"))
    keep(settings, [body for name in names for body in (completed(name), notice(name))])
    process_batch(resources, published(outbox, publisher, valkey))
    assert warned(resources) == set()
    process_batch(resources, published(outbox, publisher, valkey, "sessions"))
    assert warned(resources) == set()


def test_a_driver_is_warned_whose_session_start_still_waits_or_is_in_flight(
    resources: Resources, settings: Settings, outbox: Outbox, publisher: BatchPublisher, valkey: redis.Redis
) -> None:
    keep(settings, [started("in flight")])
    published(outbox, publisher, valkey, "sessions")
    keep(settings, [started("waiting"), notice("waiting"), notice("in flight")])
    process_batch(resources, published(outbox, publisher, valkey))
    assert warned(resources) == {"driver of waiting", "driver of in flight"}


def test_what_is_read_ahead_is_handled_and_settled_by_its_own_batch_only(
    resources: Resources, settings: Settings, outbox: Outbox, publisher: BatchPublisher, valkey: redis.Redis
) -> None:
    first, _ = keep(settings, [started("S"), notice("S")])
    process_batch(resources, published(outbox, publisher, valkey))
    with resources.engine.connect() as ledger:
        assert deliveries.get(ledger, first) is None
        before = sessions.get(ledger, "S")
    process_batch(resources, published(outbox, publisher, valkey, "sessions"))
    with resources.engine.connect() as ledger:
        row = deliveries.get(ledger, first)
        assert row is not None
        assert ([run.outcome for run in row.runs], row.duplicates) == ([Outcome.DONE], 0)
        assert sessions.get(ledger, "S") == before


def test_only_what_is_urgent_reads_ahead_and_only_events_of_its_sessions(
    settings: Settings, outbox: Outbox, publisher: BatchPublisher, valkey: redis.Redis
) -> None:
    start, *_ = keep(settings, [started("S"), started("other"), notice("S"), b'{"event": "NEW"}'])
    assert [each.id for each in published(outbox, publisher, valkey).read_ahead] == [start]
    assert published(outbox, publisher, valkey, "sessions").read_ahead == ()


def test_what_is_read_ahead_is_bounded_and_the_newest_is_read_first(
    settings: Settings, outbox: Outbox, valkey: redis.Redis
) -> None:
    *_, newest, _ = keep(settings, [started("S"), completed("S"), notice("S")])
    small = settings.model_copy(update={"batch_bytes": len(completed("S")) + 1})
    publisher = BatchPublisher(outbox, valkey, small)
    batch = published(outbox, publisher, valkey)
    assert [each.id for each in batch.read_ahead] == [newest]
    (tracked,) = publisher.in_flight
    assert tracked.bytes == len(notice("S")) + len(completed("S"))


def test_a_notice_that_may_have_killed_a_worker_reads_nothing_ahead(
    settings: Settings, outbox: Outbox, publisher: BatchPublisher, valkey: redis.Redis
) -> None:
    keep(settings, [started("S"), notice("S")])
    published(outbox, publisher, valkey)
    publisher.redeliver(publisher.in_flight[0], died=True)
    text = valkey.get(batch_key(publisher.in_flight[0].batch_id))
    assert isinstance(text, bytes)
    assert (Batch.from_json(text).isolated, Batch.from_json(text).read_ahead) == (True, ())
