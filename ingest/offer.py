"""Offer batches to the workers through Redis, and take note of those that they have settled.

request -> envelope -> inbox -> outbox -> [offer] -> process -> handler -> ledger
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import redis
import structlog
from redis.client import Pipeline
from rq import Queue

from ingest.batch import Batch, batch_key, lease_key, new_batch_id, settled_key
from ingest.broker import QUEUES, WORK_BATCH, queue
from ingest.crashpoints import Step, reach
from ingest.errors import QueueUnavailable
from ingest.outbox import InFlight, Load, Outbox
from ingest.settings import Settings

log = structlog.get_logger()

JOB_TIMEOUT = timedelta(minutes=3)
# A Redis that is full refuses the workers' own commands too, so what does not fit into so many full batches of a
# queue stays on the disk, however old it grows.
BATCHES_IN_REDIS = 16
# What a delivery takes in Redis beside its body, roughly.
BYTES_BESIDE = 512
LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Depths:
    """How many jobs wait on each queue, whosever they are, and how many of our batches were settled meanwhile."""

    waiting: Mapping[str, int]
    settled: int


class Offers:
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
        self._noted: list[str] = []

    @property
    def in_flight(self) -> Sequence[InFlight]:
        """What is not settled, the most urgent queue first."""
        return sorted(self._in_flight.values(), key=lambda each: QUEUES.index(each.queue))

    @property
    def is_waiting_for_workers(self) -> bool:
        """Whether anything is not settled, or a settlement is not crossed off in Redis."""
        return bool(self._in_flight or self._noted)

    def has_room(self, name: str) -> bool:
        """Tell whether another batch of the queue may go to Redis."""
        taken = sum(each.bytes + each.count * BYTES_BESIDE for each in self._in_flight.values() if each.queue == name)
        return taken < BATCHES_IN_REDIS * self._settings.batch_bytes

    def look(self) -> Depths:
        """Read in one round trip what waits on the queues and what was settled; the rows of the latter go."""
        key = settled_key(self._outbox.inbox_id)
        with _reaching_redis(), self._connection.pipeline(transaction=False) as pipe:
            # Crossed off only after their rows have gone, and by name: were this command sent twice, it would not
            # take away what has not been read yet.
            for batch_id in self._noted:
                pipe.lrem(key, 1, batch_id)
            for each in self._queues.values():
                pipe.llen(each.key)
            pipe.lrange(key, 0, -1)
            *counts, settled = pipe.execute()
        self._noted = []
        batch_ids = [batch_id.decode() for batch_id in settled]
        if batch_ids:
            rows = self._outbox.settle(batch_ids)
            reach(Step.SETTLED)
            log.debug("batches.settled", batches=len(batch_ids), rows=rows)
            for batch_id in batch_ids:
                self._in_flight.pop(batch_id, None)
            self._noted = batch_ids
        return Depths(dict(zip(self._queues, counts[-len(self._queues) :], strict=True)), len(batch_ids))

    def offer(self, loads: Sequence[Load]) -> None:
        """Put each load on its queue as one job, all in one transaction."""
        batches = [self._batch(load) for load in loads]
        self._outbox.assign([(batch.id, load.seqs) for batch, load in zip(batches, loads, strict=True)])
        reach(Step.ASSIGNED)
        batches = [replace(batch, deliveries=self._outbox.recounted(batch.deliveries)) for batch in batches]
        for batch, load in zip(batches, loads, strict=True):
            self._note(batch, load, deaths=0)
        with _reaching_redis():
            try:
                self._send(batches)
            except redis.ResponseError:
                # A refusal (out of memory, read-only) leaves nothing behind, so the rows may wait in line again.
                self._outbox.release([batch.id for batch in batches])
                for batch in batches:
                    del self._in_flight[batch.id]
                raise

    def offer_again(self, lost: InFlight, *, died: bool) -> None:
        """Offer what a lost batch has left under a new id; if its worker died of it, in halves, each on its own.

        A delivery alone in a batch whose worker died counts that death, and is poison after POISON_DEATHS of them.
        """
        load = self._outbox.rows(lost.batch_id)
        if not load.seqs:
            del self._in_flight[lost.batch_id]
            return
        is_alone = len(load.seqs) == 1
        deaths = lost.deaths + (died and is_alone)
        parts = load.halves() if died and not is_alone else (load,)
        batches = [
            self._batch(
                part,
                solo=len(part.seqs) == 1 and (died or deaths > 0),
                poison=is_alone and deaths >= self._settings.poison_deaths,
            )
            for part in parts
        ]
        offered = list(zip(batches, parts, strict=True))
        # New ids, because the old job may be somewhere still: it finds its batch's key gone and does nothing.
        self._outbox.split(lost.batch_id, [(batch.id, part.seqs) for batch, part in offered], deaths=deaths)
        del self._in_flight[lost.batch_id]
        for batch, part in offered:
            self._note(batch, part, deaths=deaths)
        log.warning(
            "batch.offered_again",
            batch=lost.batch_id,
            queue=lost.queue,
            died=died,
            deaths=deaths,
            into=[batch.id for batch in batches],
        )
        with _reaching_redis():
            self._send(batches, instead_of=lost.batch_id)

    def _batch(self, load: Load, *, solo: bool = False, poison: bool = False) -> Batch:
        return Batch(new_batch_id(), self._outbox.inbox_id, load.queue, load.deliveries, solo=solo, poison=poison)

    def _note(self, batch: Batch, load: Load, *, deaths: int) -> None:
        self._in_flight[batch.id] = InFlight(
            batch.id, batch.queue, datetime.now(UTC), len(load.seqs), load.bytes, deaths
        )
        log.debug("batch.offered", batch=batch.id, queue=batch.queue, deliveries=len(load.seqs))

    def _send(self, batches: Sequence[Batch], *, instead_of: str | None = None) -> None:
        with self._connection.pipeline(transaction=True) as pipe:
            if instead_of is not None:
                pipe.delete(batch_key(instead_of), lease_key(instead_of))
            for batch in batches:
                self._put(batch, pipe)
            pipe.execute()
        reach(Step.QUEUED)

    def _put(self, batch: Batch, pipe: Pipeline) -> None:
        pipe.set(batch_key(batch.id), batch.to_json())
        job = Queue.prepare_data(
            WORK_BATCH,
            args=[batch.id],
            job_id=batch.id,
            description=batch.description(),
            timeout=int(JOB_TIMEOUT.total_seconds()),
            result_ttl=int(self._settings.finished_jobs_kept.total_seconds()),
            failure_ttl=int(self._settings.failed_jobs_kept.total_seconds()),
        )
        self._queues[batch.queue].enqueue_many([job], pipeline=pipe)


@contextmanager
def _reaching_redis() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise QueueUnavailable(f"{type(error).__name__}: {error}"[:LONGEST_REASON]) from error
