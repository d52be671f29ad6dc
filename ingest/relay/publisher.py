"""Publish batches of the outbox to Redis, redeliver lost ones, and settle those that the workers acknowledge.

request -> envelope -> inbox -> [relay] -> jobs -> handler -> ledger
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import redis
import structlog
from redis.client import Pipeline
from rq import Queue

from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable
from ingest.failpoints import Failpoint, hit
from ingest.queue.batch import ack_key, batch_key, description, encode_batch, lease_key, new_batch_id
from ingest.queue.queues import BATCH_JOB, QUEUES, URGENT
from ingest.queue.redis_client import queue
from ingest.queue.redis_memory import RedisMemory, read_memory
from ingest.relay.outbox import InFlightBatch, Outbox, OutboxSlice

log = structlog.get_logger()

JOB_TIMEOUT = timedelta(minutes=3)
"""How long a batch may take, not counting the last handler that it starts."""
# Bytes of a queue in Redis, in full batches. A Redis without memory refuses the workers' commands too, so everything
# beyond that stays on the disk, however old it is.
MAX_FULL_BATCHES = 16
# Batches of a queue, however small: if Redis loses them, they are redelivered one by one, and more urgent deliveries
# wait for that. On the disk they grow into larger ones.
MAX_IN_FLIGHT = 256
# Roughly what a delivery takes in Redis beside its body.
OVERHEAD_BYTES = 512
MAX_ERROR = 200
# Seconds.
MEMORY_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class QueueDepths:
    """How many jobs wait on each queue, of any node, and how many batches of this inbox were just settled."""

    waiting: Mapping[str, int]
    settled: int


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """Rows that are about to be published as a batch; the flags are those of `ingest.queue.batch.Batch`."""

    batch_id: str
    rows: OutboxSlice
    deaths: int = 0
    isolated: bool = False
    poison: bool = False


class BatchPublisher:
    """Publishes the batches of one inbox, and tracks them until they are settled. Only the relay that leads has one.

    `RelayLoop` decides when. All methods raise QueueUnavailable if Redis fails; a batch that was being published may be
    in Redis or not, which only a LeaseMonitor finds out.
    """

    def __init__(self, outbox: Outbox, connection: redis.Redis, settings: Settings) -> None:
        self._outbox = outbox
        self._connection = connection
        self._settings = settings
        self._queues = {name: queue(name, connection) for name in QUEUES}
        self._in_flight = {each.batch_id: each for each in outbox.in_flight()}
        self._acks_to_remove: list[str] = []
        self._memory: RedisMemory | None = None
        self._memory_read_at = float("-inf")

    @property
    def in_flight(self) -> Sequence[InFlightBatch]:
        """The batches that are not settled, the most urgent queue first."""
        return sorted(self._in_flight.values(), key=lambda each: QUEUES.index(each.queue))

    @property
    def is_waiting_for_workers(self) -> bool:
        """Whether a batch is not settled, or its acknowledgement is not removed from Redis."""
        return bool(self._in_flight or self._acks_to_remove)

    def has_room(self, name: str) -> bool:
        """Return whether Redis may hold another batch of the queue: only one while it is nearly full."""
        sizes = [each.bytes + each.count * OVERHEAD_BYTES for each in self._in_flight.values() if each.queue == name]
        if sizes and self._is_nearly_full():
            return False
        return len(sizes) < MAX_IN_FLIGHT and sum(sizes) < MAX_FULL_BATCHES * self._settings.batch_bytes

    def poll(self) -> QueueDepths:
        """Read the depths of the queues and the acknowledgements in one round trip; settle the acknowledged batches."""
        key = ack_key(self._outbox.inbox_id)
        with _redis_errors(), self._connection.pipeline(transaction=False) as pipe:
            # Removed after the rows were deleted, and by value: a command that is sent twice removes no acknowledgement
            # that was not read.
            for batch_id in self._acks_to_remove:
                pipe.lrem(key, 1, batch_id)
            for each in self._queues.values():
                pipe.llen(each.key)
            pipe.lrange(key, 0, -1)
            *counts, settled = pipe.execute()
        self._acks_to_remove = []
        batch_ids = [batch_id.decode() for batch_id in settled]
        if batch_ids:
            rows = self._outbox.settle(batch_ids)
            hit(Failpoint.SETTLED)
            log.debug("batches.settled", batches=len(batch_ids), rows=rows)
            for batch_id in batch_ids:
                self._in_flight.pop(batch_id, None)
            self._acks_to_remove = batch_ids
        return QueueDepths(dict(zip(self._queues, counts[-len(self._queues) :], strict=True)), len(batch_ids))

    def publish(self, slices: Sequence[OutboxSlice]) -> None:
        """Enqueue each slice as one job on its queue, all in one transaction."""
        pending = [PendingBatch(new_batch_id(), rows) for rows in slices]
        self._outbox.assign([(batch.batch_id, batch.rows) for batch in pending])
        hit(Failpoint.ASSIGNED)
        self._track(pending)
        with _redis_errors():
            try:
                self._send(pending)
            except redis.ResponseError:
                # After a refusal (out of memory, read-only) nothing is in Redis, so the rows can wait again.
                self._outbox.release([batch.batch_id for batch in pending])
                for batch in pending:
                    del self._in_flight[batch.batch_id]
                raise

    def redeliver(self, lost: InFlightBatch, *, died: bool) -> None:
        """Publish what is left of a lost batch under a new id; if its worker died, as two halves.

        A delivery alone in a batch whose worker died counts that death; after POISON_DEATHS of them it is poison.
        """
        rows = self._outbox.rows_of(lost.batch_id)
        if not rows.seqs:
            del self._in_flight[lost.batch_id]
            return
        is_alone = len(rows.seqs) == 1
        deaths = lost.deaths + (died and is_alone)
        pending = [
            PendingBatch(
                new_batch_id(),
                part,
                deaths=deaths,
                isolated=len(part.seqs) == 1 and (died or deaths > 0),
                poison=is_alone and deaths >= self._settings.poison_deaths,
            )
            for part in (rows.split() if died and not is_alone else (rows,))
        ]
        # With new ids, as the old job may still be queued: it does nothing, because the key of its batch is deleted.
        self._outbox.split(lost.batch_id, [(each.batch_id, each.rows) for each in pending], deaths=deaths)
        del self._in_flight[lost.batch_id]
        self._track(pending)
        new_ids = [batch.batch_id for batch in pending]
        log.warning("batch.redelivered", batch=lost.batch_id, queue=lost.queue, died=died, deaths=deaths, into=new_ids)
        with _redis_errors():
            self._send(pending, replacing=lost.batch_id)

    def _is_nearly_full(self) -> bool:
        now = time.monotonic()
        if now > self._memory_read_at + MEMORY_EVERY:
            with _redis_errors():
                self._memory = read_memory(self._connection)
            self._memory_read_at = now
        return self._memory is not None and self._memory.is_nearly_full

    def _track(self, pending: Sequence[PendingBatch]) -> None:
        now = datetime.now(UTC)
        for batch in pending:
            batch_id, rows, count = batch.batch_id, batch.rows, len(batch.rows.seqs)
            self._in_flight[batch_id] = InFlightBatch(batch_id, rows.queue, now, count, rows.bytes, batch.deaths)
            log.debug("batch.published", batch=batch_id, queue=rows.queue, deliveries=count)

    def _send(self, pending: Sequence[PendingBatch], *, replacing: str | None = None) -> None:
        with self._connection.pipeline(transaction=True) as pipe:
            if replacing is not None:
                pipe.delete(batch_key(replacing), lease_key(replacing))
            for batch in pending:
                self._enqueue(batch, pipe)
            pipe.execute()
        hit(Failpoint.QUEUED)

    def _enqueue(self, batch: PendingBatch, pipe: Pipeline) -> None:
        # What is urgent overtakes the events of its sessions, so it carries copies of them. One that may be poison does
        # not: it would answer for them.
        reads_ahead = batch.rows.queue == URGENT and not batch.isolated and not batch.poison
        payload = self._outbox.payload(batch.batch_id, read_ahead=self._settings.batch_bytes if reads_ahead else 0)
        tracked = self._in_flight[batch.batch_id]
        self._in_flight[batch.batch_id] = replace(tracked, bytes=batch.rows.bytes + payload.read_ahead_bytes)
        encoded = encode_batch(
            batch.batch_id,
            inbox=self._outbox.inbox_id,
            queue=batch.rows.queue,
            deliveries=payload.deliveries,
            isolated=batch.isolated,
            poison=batch.poison,
            read_ahead=payload.read_ahead,
        )
        pipe.set(batch_key(batch.batch_id), encoded)
        job = Queue.prepare_data(
            BATCH_JOB,
            args=[batch.batch_id],
            job_id=batch.batch_id,
            description=description(payload.names, payload.session_id),
            timeout=int((JOB_TIMEOUT + self._settings.handler_timeout).total_seconds()),
            result_ttl=int(self._settings.finished_jobs_kept.total_seconds()),
            failure_ttl=int(self._settings.failed_jobs_kept.total_seconds()),
        )
        self._queues[batch.rows.queue].enqueue_many([job], pipeline=pipe)


@contextmanager
def _redis_errors() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise QueueUnavailable(f"{type(error).__name__}: {error}"[:MAX_ERROR]) from error
