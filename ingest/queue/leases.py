"""Signs of life: a counter beats in Redis while a job is worked on, and a watcher tells working from dead by it.

No clocks are compared: the watcher only asks whether the counter moved, and measures with its own monotonic clock.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

import redis
import structlog

from ingest.errors import QueueUnavailable, WebhooksError
from ingest.queue.batch import lease_key
from ingest.queue.queues import queue

log = structlog.get_logger()

HEARTBEAT = timedelta(seconds=1)
LEASE_TIMEOUT = timedelta(seconds=4)
# A counter left behind by a killed process goes by itself, long after every watcher saw it stand still.
COUNTER_KEPT = timedelta(minutes=10)
# What stands in a counter's place when the end of its worker is known.
CRASHED = b"died"
# How long the end of a job may wait for Redis to take the counter away.
LEAVE_TIMEOUT = timedelta(seconds=5)


class JobState(Enum):
    """How a job stands with the workers."""

    QUEUED = "queued"
    """Waiting on its queue."""
    RUNNING = "running"
    """Somebody works on it, or has just taken it."""
    LOST = "gone"
    """Neither on its queue nor worked on: lost, or ended without a word."""
    CRASHED = "died"
    """Whoever worked on it stopped without ending it."""


@contextlib.contextmanager
def lease(connection: redis.Redis, job_id: str, *, beat: timedelta = HEARTBEAT) -> Iterator[None]:
    """Beat for the job while the block runs; leaving it takes the counter away, and so hands back what is not done.

    A WebhooksError (the database is away, say), an error of Redis and a request to exit hand the job back too. Any
    other exception is reported as a death, so that what breaks us is offered again in smaller pieces until it is found.
    The counter is `lease_key(job_id)`; an acknowledgement may delete it earlier in its own transaction.
    While Redis is away the beating goes on trying, and raises nothing.
    """
    left, broken = threading.Event(), threading.Event()
    _renew(connection, job_id)
    arguments = (left, broken, connection, job_id, beat)
    beating = threading.Thread(target=_beat_until, args=arguments, name="lease", daemon=True)
    beating.start()
    try:
        yield
    except (WebhooksError, redis.RedisError, SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        broken.set()
        raise
    finally:
        left.set()
        beating.join(LEAVE_TIMEOUT.total_seconds())


def report_crash(connection: redis.Redis, job_id: str) -> None:
    """Say at once that whoever worked on the job has died, where that is known: a watcher need not wait for silence.

    Without Redis nothing is said, and the silence tells it.
    """
    try:
        connection.set(lease_key(job_id), CRASHED, ex=COUNTER_KEPT, xx=True)
    except redis.RedisError as error:
        log.warning("lease.death_unreported", job=job_id, error=type(error).__name__)


class LeaseMonitor:
    """Tells how jobs stand, from one look to the next. Look about once a second; ask about the same jobs again."""

    def __init__(
        self,
        connection: redis.Redis,
        *,
        grace: timedelta = LEASE_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._grace = grace.total_seconds()
        self._clock = clock
        self._seen: dict[str, _History] = {}
        self._looked_at: float | None = None

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        """Tell how each job (id -> name of its queue) stands, in one round trip.

        GONE and DIED are said only after nothing was seen of a job for the grace. Raises QueueUnavailable if Redis
        cannot be asked; every job's grace then starts anew, for whoever could not look knows nothing.
        """
        if not jobs:
            self._forget()
            return {}
        try:
            sights = self._ask(jobs)
        except redis.RedisError as error:
            self._forget()
            raise QueueUnavailable(f"Redis cannot be asked about jobs: {type(error).__name__}") from error
        passed = self._time_passed()
        # Only what is asked about is remembered.
        self._seen = {job_id: self._update(self._seen.get(job_id), sight, passed) for job_id, sight in sights.items()}
        return {job_id: self._classify(seen) for job_id, seen in self._seen.items()}

    def _ask(self, jobs: Mapping[str, str]) -> "dict[str, _Observation]":
        queues = [queue(name, self._connection) for name in sorted(set(jobs.values()))]
        with self._connection.pipeline(transaction=True) as pipe:
            for each in queues:
                pipe.lrange(each.key, 0, -1)
            for each in queues:
                pipe.zrange(each.started_job_registry.key, 0, -1)
            pipe.mget([lease_key(job_id) for job_id in jobs])
            *listed, beats = pipe.execute()
        queued = {entry.decode() for entries in listed[: len(queues)] for entry in entries}
        # RQ writes an execution as "<job id>:<execution id>".
        started = {entry.decode().partition(":")[0] for entries in listed[len(queues) :] for entry in entries}
        return {
            job_id: _Observation(queued=job_id in queued, started=job_id in started, beat=beat)
            for job_id, beat in zip(jobs, beats, strict=True)
        }

    def _time_passed(self) -> float:
        """Measure the time since the last look: at most half the grace, as a watcher held up itself saw nothing."""
        now = self._clock()
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, self._grace / 2)
        self._looked_at = now
        return passed

    def _update(self, before: "_History | None", sight: "_Observation", passed: float) -> "_History":
        alive = before is None or sight.queued or sight.beat != before.sight.beat
        return _History(sight, 0.0 if before is None or alive else before.silent + passed)

    def _classify(self, seen: "_History") -> JobState:
        if seen.sight.queued:
            return JobState.QUEUED
        if seen.sight.beat == CRASHED:
            return JobState.CRASHED
        if seen.sight.beat is not None:
            return JobState.CRASHED if seen.silent > self._grace else JobState.RUNNING
        # Between taking a job and its first beat a stock worker forks and imports, which a busy machine makes long.
        grace = self._grace * 1.5 if seen.sight.started else self._grace
        return JobState.LOST if seen.silent > grace else JobState.RUNNING

    def _forget(self) -> None:
        self._seen = {}
        self._looked_at = None


@dataclass(frozen=True, slots=True)
class _Observation:
    """What one look shows of a job."""

    queued: bool
    started: bool
    beat: bytes | None


@dataclass(frozen=True, slots=True)
class _History:
    """The last sight of a job, and for how many seconds it has shown no life."""

    sight: _Observation
    silent: float


def _beat_until(
    left: threading.Event, broken: threading.Event, connection: redis.Redis, job_id: str, beat: timedelta
) -> None:
    while not left.wait(beat.total_seconds()):
        _renew(connection, job_id)
    if broken.is_set():
        report_crash(connection, job_id)
        return
    until = time.monotonic() + COUNTER_KEPT.total_seconds()
    # A counter that stays behind would count as the death of a worker, so Redis is waited for.
    while not _release(connection, job_id) and time.monotonic() < until:
        time.sleep(beat.total_seconds())


def _renew(connection: redis.Redis, job_id: str) -> None:
    try:
        with connection.pipeline(transaction=False) as pipe:
            pipe.incr(lease_key(job_id))
            pipe.expire(lease_key(job_id), COUNTER_KEPT)
            pipe.execute()
    except redis.RedisError as error:
        log.warning("lease.beat_missed", job=job_id, error=type(error).__name__)


def _release(connection: redis.Redis, job_id: str) -> bool:
    try:
        connection.delete(lease_key(job_id))
    except redis.RedisError:
        return False
    return True
