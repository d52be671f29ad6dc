"""The thread that carries deliveries from the inbox to Redis, in one process of each data folder, and never gives up.

request -> envelope -> inbox -> [relay] -> process -> handler -> ledger
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
from ingest.errors import QueueUnavailable, SettingsError
from ingest.inbox.corruption import is_corruption
from ingest.queue.leases import LEASE_TIMEOUT
from ingest.queue.queues import connect_redis
from ingest.relay.outbox import Outbox
from ingest.relay.relay_loop import PROBE_EVERY, SWEEP_EVERY, RelayLoop

log = structlog.get_logger()

LOCK_NAME = "relay.lock"
# The longest is such that with the grace of the sweep, which begins after an outage, less than ten seconds pass until
# all is published.
BACKOFF = Backoff(first=timedelta(milliseconds=200), longest=timedelta(seconds=3))
# Seconds.
CANDIDATE_POLL = 0.25
DRAIN = 2.0
# Those who answer what was on its way have had six before: together they stay below ten.
JOIN = 2.5
# What is known to say nothing secret. Of anything else only the name of its type is logged and shown.
SAFE_TO_LOG = (SettingsError, sqlite3.Error, OSError)


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """How the relay of this process stands, for those who ask whether it is well."""

    leader: bool = False
    """Whether it is the one that carries; the others stand by."""
    redis_ok: bool = False
    redis_error: str | None = None
    backlog: int = 0
    """Deliveries that are on the disk only."""
    last_offer_at: datetime | None = None
    error: str | None = None
    """What stopped it last, other than Redis; None once it works again."""


class Relay:
    """Carries deliveries while it is the only one of its data folder; else it waits to take over."""

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
        self._standing = RelayStatus()
        self._redis: redis.Redis | None = None
        self._on_corruption: list[Callable[[], None]] = []

    def start(self) -> None:
        """Begin to carry, or to stand by, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Offer what waits, for a few seconds at most, and end the thread. The rest stays in the inbox."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(JOIN)

    def wake(self) -> None:
        """Say that something new was kept; may be called by any thread."""
        self._woken.set()

    def on_corruption(self, callback: Callable[[], None]) -> None:
        """Have the callback called, once, in the relay's thread, when the file turns out to be damaged while in use."""
        self._on_corruption.append(callback)

    def status(self) -> RelayStatus:
        """Tell how it stands."""
        return self._standing

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._acquire_leadership():
                    self._run_as_leader()
                else:
                    self._run_as_follower()
            except QueueUnavailable as error:
                self._note_failure(redis_error=str(error))
            # Nobody else carries: whatever goes wrong, from a full disk to a fault of ours, the thread tries again.
            except Exception as error:  # noqa: BLE001
                said = f"{type(error).__name__}: {error}" if isinstance(error, SAFE_TO_LOG) else type(error).__name__
                self._note_failure(error=said[:200])
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
                # Begun anew after each failure: what is on the disk counts, not what was remembered.
                rounds = RelayLoop(outbox, self._connection(), self._settings, self._grace, self._sweep_every)
                while not self._stopping.is_set():
                    self._woken.clear()
                    rounds.tick()
                    self._note_success(rounds)
                    rounds.wait(self._woken)
                rounds.drain(time.monotonic() + DRAIN)
                self._note_success(rounds)
            except QueueUnavailable:
                self._standing = replace(self._standing, backlog=outbox.waiting_count())
                raise

    def _run_as_follower(self) -> None:
        until = time.monotonic() + PROBE_EVERY
        connection = self._connection()
        try:
            connection.ping()
        except redis.RedisError as error:
            self._standing = replace(self._standing, redis_ok=False, redis_error=type(error).__name__)
        else:
            self._standing = replace(self._standing, redis_ok=True, redis_error=None, error=None)
        while time.monotonic() < until and not self._acquire_leadership():
            if self._stopping.wait(CANDIDATE_POLL):
                return

    def _acquire_leadership(self) -> bool:
        """Lock the data folder for this process; the kernel frees the lock of one that dies."""
        if self._lock is not None:
            return True
        lock = os.open(self._path.parent / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        self._standing = replace(self._standing, leader=True)
        log.info("relay.became_leader")
        return True

    def _release_leadership(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._standing = replace(self._standing, leader=False)

    def _connection(self) -> redis.Redis:
        if self._settings.redis_url is None:
            raise QueueUnavailable("REDIS_URL is not set")
        if self._redis is None:
            self._redis = connect_redis(self._settings.redis_url)
        return self._redis

    def _disconnect(self) -> None:
        # A server that has become a replica keeps its connections: only a new one finds the new master.
        if self._redis is not None:
            self._redis.close()
            self._redis = None

    def _note_success(self, rounds: RelayLoop) -> None:
        if not self._standing.redis_ok:
            log.info("queue.found")
        self._failures = 0
        self._standing = RelayStatus(
            leader=True,
            redis_ok=True,
            backlog=rounds.held,
            last_offer_at=rounds.last_offer_at or self._standing.last_offer_at,
        )

    def _note_failure(self, *, redis_error: str | None = None, error: str | None = None) -> None:
        before = self._standing
        self._failures += 1
        if redis_error is not None:
            if before.redis_error is None:
                log.warning("queue.lost", error=redis_error)
            self._standing = replace(before, redis_ok=False, redis_error=redis_error)
        else:
            if error != before.error:
                log.error("relay.failed", error=error)
            self._standing = replace(before, error=error)
