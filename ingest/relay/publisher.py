"""Offer batches to the workers through Redis, and take note of those that they have settled.

request -> envelope -> inbox -> outbox -> [offer] -> process -> handler -> ledger
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import redis
import structlog
from redis.client import Pipeline
from rq import Queue

from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable
from ingest.failpoints import Failpoint, hit
from ingest.queue.batch import ack_key, batch_key, description, encode_batch, lease_key, new_batch_id
from ingest.queue.queues import BATCH_JOB, QUEUES, queue
from ingest.relay.outbox import InFlightBatch, Outbox, OutboxSlice

log = structlog.get_logger()

JOB_TIMEOUT = timedelta(minutes=3)
"""How long a batch may take beside the last handler that it begins."""
# A Redis that is full refuses the workers' own commands too, so what does not fit into so many full batches of a
# queue stays on the disk, however old it grows.
MAX_FULL_BATCHES = 16
# Nor are there more batches than this, however small: if Redis loses them, they are offered again one by one, and what
# is more urgent waits for that. What stays on the disk meanwhile grows into larger ones.
MAX_IN_FLIGHT = 256
# What a delivery takes in Redis beside its body, roughly.
OVERHEAD_BYTES = 512
LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class QueueDepths:
    """How many jobs wait on each queue, whosever they are, and how many of our batches were settled meanwhile."""

    waiting: Mapping[str, int]
    settled: int


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """What is to become a batch."""

    batch_id: str
    load: OutboxSlice
    deaths: int = 0
    isolated: bool = False
    poison: bool = False


class BatchPublisher:
    """Everything of one inbox that is in Redis. One at a time in the world: the leading relay's.

    All methods raise QueueUnavailable if Redis does not do as told; what was being offered then may or may not be
    there, and only watching can tell.
    """

    def __init__(self, outbox: Outbox, connection: redis.Redis, settings: Settings) -> None:
        self._outbox = outbox
        self._connection = connection
        self._settings = settings
        self._queues = {name: queue(name, connection) for name in QUEUES}
        self._in_flight = {each.batch_id: each for each in outbox.in_flight()}
        self._unacked_settlements: list[str] = []

    @property
    def in_flight(self) -> Sequence[InFlightBatch]:
        """What is not settled, the most urgent queue first."""
        return sorted(self._in_flight.values(), key=lambda each: QUEUES.index(each.queue))

    @property
    def is_waiting_for_workers(self) -> bool:
        """Whether anything is not settled, or a settlement is not crossed off in Redis."""
        return bool(self._in_flight or self._unacked_settlements)

    def has_room(self, name: str) -> bool:
        """Tell whether another batch of the queue may go to Redis."""
        sizes = [each.bytes + each.count * OVERHEAD_BYTES for each in self._in_flight.values() if each.queue == name]
        return len(sizes) < MAX_IN_FLIGHT and sum(sizes) < MAX_FULL_BATCHES * self._settings.batch_bytes

    def poll(self) -> QueueDepths:
        """Read in one round trip what waits on the queues and what was settled; the rows of the latter go."""
        key = ack_key(self._outbox.inbox_id)
        with _redis_errors(), self._connection.pipeline(transaction=False) as pipe:
            # Crossed off only after their rows have gone, and by name: were this command sent twice, it would not
            # take away what has not been read yet.
            for batch_id in self._unacked_settlements:
                pipe.lrem(key, 1, batch_id)
            for each in self._queues.values():
                pipe.llen(each.key)
            pipe.lrange(key, 0, -1)
            *counts, settled = pipe.execute()
        self._unacked_settlements = []
        batch_ids = [batch_id.decode() for batch_id in settled]
        if batch_ids:
            rows = self._outbox.settle(batch_ids)
            hit(Failpoint.SETTLED)
            log.debug("batches.settled", batches=len(batch_ids), rows=rows)
            for batch_id in batch_ids:
                self._in_flight.pop(batch_id, None)
            self._unacked_settlements = batch_ids
        return QueueDepths(dict(zip(self._queues, counts[-len(self._queues) :], strict=True)), len(batch_ids))

    def publish(self, loads: Sequence[OutboxSlice]) -> None:
        """Put each load on its queue as one job, all in one transaction."""
        parcels = [PendingBatch(new_batch_id(), load) for load in loads]
        self._outbox.assign([(parcel.batch_id, parcel.load) for parcel in parcels])
        hit(Failpoint.ASSIGNED)
        self._track(parcels)
        with _redis_errors():
            try:
                self._send(parcels)
            except redis.ResponseError:
                # A refusal (out of memory, read-only) leaves nothing behind, so the rows may wait in line again.
                self._outbox.release([parcel.batch_id for parcel in parcels])
                for parcel in parcels:
                    del self._in_flight[parcel.batch_id]
                raise

    def redeliver(self, lost: InFlightBatch, *, died: bool) -> None:
        """Offer what a lost batch has left under a new id; if its worker died of it, in halves, each on its own.

        A delivery alone in a batch whose worker died counts that death, and is poison after POISON_DEATHS of them.
        """
        load = self._outbox.rows_of(lost.batch_id)
        if not load.seqs:
            del self._in_flight[lost.batch_id]
            return
        is_alone = len(load.seqs) == 1
        deaths = lost.deaths + (died and is_alone)
        parcels = [
            PendingBatch(
                new_batch_id(),
                part,
                deaths=deaths,
                isolated=len(part.seqs) == 1 and (died or deaths > 0),
                poison=is_alone and deaths >= self._settings.poison_deaths,
            )
            for part in (load.split() if died and not is_alone else (load,))
        ]
        # New ids, because the old job may be somewhere still: it finds its batch's key gone and does nothing.
        self._outbox.split(lost.batch_id, [(each.batch_id, each.load) for each in parcels], deaths=deaths)
        del self._in_flight[lost.batch_id]
        self._track(parcels)
        log.warning(
            "batch.offered_again",
            batch=lost.batch_id,
            queue=lost.queue,
            died=died,
            deaths=deaths,
            into=[parcel.batch_id for parcel in parcels],
        )
        with _redis_errors():
            self._send(parcels, instead_of=lost.batch_id)

    def _track(self, parcels: Sequence[PendingBatch]) -> None:
        for batch_id, load, deaths in ((each.batch_id, each.load, each.deaths) for each in parcels):
            self._in_flight[batch_id] = InFlightBatch(
                batch_id, load.queue, datetime.now(UTC), len(load.seqs), load.bytes, deaths
            )
            log.debug("batch.offered", batch=batch_id, queue=load.queue, deliveries=len(load.seqs))

    def _send(self, parcels: Sequence[PendingBatch], *, instead_of: str | None = None) -> None:
        with self._connection.pipeline(transaction=True) as pipe:
            if instead_of is not None:
                pipe.delete(batch_key(instead_of), lease_key(instead_of))
            for parcel in parcels:
                self._put(parcel, pipe)
            pipe.execute()
        hit(Failpoint.QUEUED)

    def _put(self, parcel: PendingBatch, pipe: Pipeline) -> None:
        packed = self._outbox.payload(parcel.batch_id)
        batch = encode_batch(
            parcel.batch_id,
            inbox=self._outbox.inbox_id,
            queue=parcel.load.queue,
            deliveries=packed.deliveries,
            isolated=parcel.isolated,
            poison=parcel.poison,
        )
        pipe.set(batch_key(parcel.batch_id), batch)
        job = Queue.prepare_data(
            BATCH_JOB,
            args=[parcel.batch_id],
            job_id=parcel.batch_id,
            description=description(packed.names, packed.session_id),
            timeout=int((JOB_TIMEOUT + self._settings.handler_timeout).total_seconds()),
            result_ttl=int(self._settings.finished_jobs_kept.total_seconds()),
            failure_ttl=int(self._settings.failed_jobs_kept.total_seconds()),
        )
        self._queues[parcel.load.queue].enqueue_many([job], pipeline=pipe)


@contextmanager
def _redis_errors() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise QueueUnavailable(f"{type(error).__name__}: {error}"[:LONGEST_REASON]) from error
