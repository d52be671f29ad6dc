"""The relay thread: one process of each data folder is elected to move deliveries from the inbox to Redis.

request -> envelope -> inbox -> [relay] -> jobs -> handler -> ledger
"""

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import redis
import structlog

from ingest.backoff import Backoff
from ingest.config.settings import Settings
from ingest.errors import LedgerUnknown, QueueUnavailable, SettingsError
from ingest.inbox.corruption import is_corruption
from ingest.queue.leases import LEASE_TIMEOUT
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.redis_client import connect_redis
from ingest.relay.ledger_binding import LedgerBinding
from ingest.relay.outbox import Outbox
from ingest.relay.relay_loop import PROBE_EVERY, SWEEP_EVERY, RelayLoop

log = structlog.get_logger()

LOCK_NAME = "relay.lock"
# With the grace of the sweep, which starts after an outage, everything is published again in less than ten seconds.
BACKOFF = Backoff(first=timedelta(milliseconds=200), longest=timedelta(seconds=3))
# Seconds.
CANDIDATE_POLL = 0.25
DRAIN_TIMEOUT = 2.0
# Connection draining has had six seconds before: together they stay below ten.
JOIN_TIMEOUT = 2.5
# Errors whose text has no secrets. Of all others only the type is logged and shown.
SAFE_TO_LOG = (SettingsError, sqlite3.Error, OSError)


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """The state of this process's relay, for the health endpoints."""

    leader: bool = False
    """Whether it was elected; the others are followers."""
    redis_ok: bool = False
    redis_error: str | None = None
    backlog: int = 0
    """Deliveries that are only on the disk."""
    last_published_at: datetime | None = None
    error: str | None = None
    """The last error other than Redis'; None once the relay works again."""


class Relay:
    """Runs the relay loop while it leads its data folder; otherwise waits to be elected. Survives all errors."""

    def __init__(
        self, path: Path, settings: Settings, *, grace: timedelta = LEASE_TIMEOUT, sweep_every: timedelta = SWEEP_EVERY
    ) -> None:
        self._path = path
        self._settings = settings
        self._grace = grace
        self._sweep_every = sweep_every
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._lock: int | None = None
        self._failures = 0
        self._status = RelayStatus()
        self._redis: redis.Redis | None = None
        self._on_corruption: list[Callable[[], None]] = []

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what waits, for a few seconds at most, and end the thread. The rest stays in the inbox."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_TIMEOUT)

    def wake(self) -> None:
        """Notify the relay of new deliveries, from any thread."""
        self._woken.set()

    def on_corruption(self, callback: Callable[[], None]) -> None:
        """Call the callback once, in the relay's thread, when the file turns out to be corrupt while in use."""
        self._on_corruption.append(callback)

    def status(self) -> RelayStatus:
        """Return the current status."""
        return self._status

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._acquire_leadership():
                    self._run_as_leader()
                else:
                    self._run_as_follower()
            except QueueUnavailable as error:
                self._record_failure(redis_error=str(error))
            except LedgerUnknown as error:
                self._record_unbound(str(error))
            # No other process may lead meanwhile: the thread has to survive any error, and tries again.
            except Exception as error:  # noqa: BLE001
                problem = f"{type(error).__name__}: {error}" if isinstance(error, SAFE_TO_LOG) else type(error).__name__
                self._record_failure(error=problem[:200])
                while is_corruption(error) and self._on_corruption:
                    self._on_corruption.pop()()
            else:
                continue
            self._disconnect()
            self._stopping.wait(BACKOFF.delay(self._failures).total_seconds())
        self._disconnect()
        self._release_leadership()

    def _run_as_leader(self) -> None:
        with contextlib.closing(Outbox(self._path)) as outbox:
            try:
                binding, connection = LedgerBinding(outbox, self._settings), self._connection()
                namespace, checked_at = binding.resolve(connection), time.monotonic()
                # A new loop after each failure: it starts from the disk.
                queues = NamespacedRedis(connection, namespace)
                loop = RelayLoop(outbox, queues, self._settings, self._grace, self._sweep_every)
                while not self._stopping.is_set():
                    self._woken.clear()
                    if time.monotonic() > checked_at + PROBE_EVERY:
                        checked_at = time.monotonic()
                        if binding.resolve(connection) != namespace:
                            return
                    loop.tick()
                    self._record_success(loop)
                    loop.wait(self._woken)
                loop.drain(time.monotonic() + DRAIN_TIMEOUT)
                self._record_success(loop)
            except (QueueUnavailable, LedgerUnknown):
                self._status = replace(self._status, backlog=outbox.waiting_count())
                raise

    def _run_as_follower(self) -> None:
        until = time.monotonic() + PROBE_EVERY
        connection = self._connection()
        try:
            connection.ping()
        except redis.RedisError as error:
            self._status = replace(self._status, redis_ok=False, redis_error=type(error).__name__)
        else:
            self._status = replace(self._status, redis_ok=True, redis_error=None, error=None)
        while time.monotonic() < until and not self._acquire_leadership():
            if self._stopping.wait(CANDIDATE_POLL):
                return

    def _acquire_leadership(self) -> bool:
        """Lock the data folder for this process; the kernel frees the lock if the process dies."""
        if self._lock is not None:
            return True
        lock = os.open(self._path.parent / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        except OSError:
            os.close(lock)
            raise
        self._lock = lock
        self._status = replace(self._status, leader=True)
        log.info("relay.became_leader")
        return True

    def _release_leadership(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._status = replace(self._status, leader=False)

    def _connection(self) -> redis.Redis:
        if self._settings.redis_url is None:
            raise QueueUnavailable("REDIS_URL is not set")
        if self._redis is None:
            self._redis = connect_redis(self._settings.redis_url)
        return self._redis

    def _disconnect(self) -> None:
        # A master that becomes a replica keeps its connections: only a new connection finds the new master.
        if self._redis is not None:
            self._redis.close()
            self._redis = None

    def _record_success(self, loop: RelayLoop) -> None:
        if not self._status.redis_ok:
            log.info("redis.connected")
        self._failures = 0
        self._status = RelayStatus(
            leader=True,
            redis_ok=True,
            backlog=loop.backlog,
            last_published_at=loop.last_published_at or self._status.last_published_at,
        )

    def _record_unbound(self, reason: str) -> None:
        self._failures += 1
        if reason != self._status.error:
            log.warning("relay.waiting", reason=reason)
        self._status = replace(self._status, redis_ok=True, redis_error=None, error=reason)

    def _record_failure(self, *, redis_error: str | None = None, error: str | None = None) -> None:
        before = self._status
        self._failures += 1
        if redis_error is not None:
            if before.redis_error is None:
                log.warning("redis.unavailable", error=redis_error)
            self._status = replace(before, redis_ok=False, redis_error=redis_error)
        else:
            if error != before.error:
                log.error("relay.failed", error=error)
            self._status = replace(before, error=error)
