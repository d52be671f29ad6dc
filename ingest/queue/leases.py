"""Leases with heartbeats: a counter in Redis is incremented while a job runs, and a monitor detects crashes by it.

request -> envelope -> inbox -> relay -> [jobs] -> handler -> ledger

No clocks are compared: the monitor only checks whether the counter moved, and measures with its own monotonic clock.
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
from ingest.queue.redis_client import queue

log = structlog.get_logger()

HEARTBEAT = timedelta(seconds=1)
LEASE_TIMEOUT = timedelta(seconds=4)
# The counter of a killed process expires long after every monitor has seen it stand still.
COUNTER_TTL = timedelta(minutes=10)
# Replaces the counter when the worker is known to have crashed.
CRASHED = b"crashed"
# How long the end of a job may wait for Redis to delete the counter.
RELEASE_TIMEOUT = timedelta(seconds=5)


class JobState(Enum):
    """The state of a job."""

    QUEUED = "queued"
    """Waiting on its queue."""
    RUNNING = "running"
    """A worker holds its lease, or has just dequeued it."""
    LOST = "lost"
    """Neither queued nor running: lost, or ended without an acknowledgement."""
    CRASHED = "crashed"
    """Its worker stopped without ending it."""


@contextlib.contextmanager
def lease(
    connection: redis.Redis, job_id: str, *, read: str | None = None, beat: timedelta = HEARTBEAT
) -> Iterator[bytes | None]:
    """Renew the lease of a job every `beat` while the block runs; its end deletes the counter.

    Yield the value of the key `read`, which comes in the lease's own round trip. Raise RedisError if it cannot be read.

    A WebhooksError (the database is unavailable, say), an error of Redis and a request to exit release the lease too:
    what is not done is published again. Any other exception is reported as a crash, so that the batch is published
    again in smaller pieces until the poison is found. The counter is `lease_key(job_id)`; an acknowledgement may
    delete it earlier in its own transaction. While Redis is unavailable renewing goes on, and raises nothing.
    """
    ended, crashed = threading.Event(), threading.Event()
    arguments = (ended, crashed, connection, job_id, beat)
    renewal = threading.Thread(target=_renew_until_end, args=arguments, name="lease", daemon=True)
    renewal.start()
    try:
        if read is None:
            _renew(connection, job_id)
            yield None
        else:
            yield _increment(connection, job_id, read)
    except (WebhooksError, redis.RedisError, SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        crashed.set()
        raise
    finally:
        ended.set()
        renewal.join(RELEASE_TIMEOUT.total_seconds())


def report_crash(connection: redis.Redis, job_id: str) -> None:
    """Report that the worker of a job has crashed. Without Redis a monitor waits for the lease to time out."""
    try:
        connection.set(lease_key(job_id), CRASHED, ex=COUNTER_TTL, xx=True)
    except redis.RedisError as error:
        log.warning("lease.crash_unreported", job=job_id, error=type(error).__name__)


class LeaseMonitor:
    """Detects crashed and lost jobs by polling: about once a second, for the same jobs."""

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
        self._histories: dict[str, _History] = {}
        self._polled_at: float | None = None

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        """Return the state of each job (id -> name of its queue), in one round trip.

        A job is LOST, or CRASHED by its heartbeat, only after no sign of life for the grace. Raise QueueUnavailable if
        Redis is unavailable; the grace of every job then starts anew, as nothing was observed meanwhile.
        """
        if not jobs:
            self._reset()
            return {}
        try:
            observations = self._observe(jobs)
        except redis.RedisError as error:
            self._reset()
            raise QueueUnavailable(f"Redis cannot be asked about jobs: {type(error).__name__}") from error
        passed = self._time_passed()
        self._histories = {
            job_id: self._update(self._histories.get(job_id), now, passed) for job_id, now in observations.items()
        }
        return {job_id: self._classify(history) for job_id, history in self._histories.items()}

    def _observe(self, jobs: Mapping[str, str]) -> "dict[str, _Observation]":
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
        """Return the time since the last poll, at most half the grace: a monitor that was delayed observed nothing."""
        now = self._clock()
        passed = 0.0 if self._polled_at is None else min(now - self._polled_at, self._grace / 2)
        self._polled_at = now
        return passed

    def _update(self, before: "_History | None", now: "_Observation", passed: float) -> "_History":
        alive = before is None or now.queued or now.beat != before.last.beat
        return _History(now, 0.0 if before is None or alive else before.silent + passed)

    def _classify(self, history: "_History") -> JobState:
        last = history.last
        if last.queued:
            return JobState.QUEUED
        if last.beat == CRASHED:
            return JobState.CRASHED
        if last.beat is not None:
            return JobState.CRASHED if history.silent > self._grace else JobState.RUNNING
        # Between dequeuing a job and its first heartbeat RQ's own worker forks and imports: long on a busy machine.
        grace = self._grace * 1.5 if last.started else self._grace
        return JobState.LOST if history.silent > grace else JobState.RUNNING

    def _reset(self) -> None:
        self._histories = {}
        self._polled_at = None


@dataclass(frozen=True, slots=True)
class _Observation:
    """What one poll shows of a job."""

    queued: bool
    started: bool
    beat: bytes | None


@dataclass(frozen=True, slots=True)
class _History:
    """The last observation of a job, and for how many seconds it has shown no sign of life."""

    last: _Observation
    silent: float


def _renew_until_end(
    ended: threading.Event, crashed: threading.Event, connection: redis.Redis, job_id: str, beat: timedelta
) -> None:
    while not ended.wait(beat.total_seconds()):
        _renew(connection, job_id)
    if crashed.is_set():
        report_crash(connection, job_id)
        return
    until = time.monotonic() + COUNTER_TTL.total_seconds()
    # A counter that stays would count as a crash, so this waits for Redis.
    while not _release(connection, job_id) and time.monotonic() < until:
        time.sleep(beat.total_seconds())


def _renew(connection: redis.Redis, job_id: str) -> None:
    try:
        _increment(connection, job_id)
    except redis.RedisError as error:
        log.warning("lease.heartbeat_failed", job=job_id, error=type(error).__name__)


def _increment(connection: redis.Redis, job_id: str, read: str | None = None) -> bytes | None:
    with connection.pipeline(transaction=False) as pipe:
        pipe.incr(lease_key(job_id))
        pipe.expire(lease_key(job_id), COUNTER_TTL)
        if read is not None:
            pipe.get(read)
        value = pipe.execute()[-1]
    return value if isinstance(value, bytes) else None


def _release(connection: redis.Redis, job_id: str) -> bool:
    try:
        connection.delete(lease_key(job_id))
    except redis.RedisError:
        return False
    return True
