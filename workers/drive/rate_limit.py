"""Rate limit of our calls to the Drive API, below its own: per clock minute and per UTC day.

All processes count together in Redis. While Redis is away each process counts its own calls and allows itself a
twentieth: enough for what is urgent, and within the limit for up to twenty processes.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import redis
import structlog
from limits.storage import MemoryStorage, RedisStorage, Storage
from redis.exceptions import RedisError

KEY_PREFIX = "webhooks:drive"
MINUTE, DAY = 60, 86_400
LOCAL_SHARE = 20
"""The fraction of the limit that a process allows itself without Redis."""

REDIS_RETRY_AFTER = 10.0
"""Seconds without Redis after a failure: each try may take as long as its timeout."""

MARGIN = timedelta(seconds=1)
"""How far into the next window a call waits: the clocks of other machines may be behind ours."""

log = structlog.get_logger()


class RateLimiter:
    """Decides when a call may be made. Safe for threads.

    The counters are outside of all namespaces in Redis: installations with the same key of the API, whose `account` is
    the same, share its limit.
    """

    def __init__(
        self,
        connection: redis.Redis | None,
        *,
        per_minute: int,
        per_day: int,
        account: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._now = now
        self._shared: _CallCounter | None = None
        if connection is not None:
            storage = RedisStorage("redis://", connection.connection_pool, key_prefix=f"{KEY_PREFIX}:{account}")
            self._shared = _CallCounter(storage, per_minute, per_day)
        self._local = _CallCounter(MemoryStorage(), max(1, per_minute // LOCAL_SHARE), max(1, per_day // LOCAL_SHARE))
        self._redis_from = 0.0
        self._is_local = False
        self._blocked_minute = -1
        self._logged_until = 0

    def acquire(self) -> timedelta:
        """Count a call and return zero, or return after how long to ask again."""
        now = self._now()
        seconds = int(now.timestamp())
        window = MINUTE if seconds // MINUTE == self._blocked_minute else self._count(seconds)
        if not window:
            return timedelta()
        until = (seconds // window + 1) * window
        wait = datetime.fromtimestamp(until, UTC) + MARGIN - now
        if until != self._logged_until:
            self._logged_until = until
            log.info("drive.rate_limited", seconds=round(wait.total_seconds(), 1))
        return wait

    def block_this_minute(self) -> None:
        """Stop the calls of all processes for the rest of this clock minute, after a 429."""
        self._blocked_minute = int(self._now().timestamp()) // MINUTE
        log.warning("drive.throttled")
        if self._shared is not None:
            try:
                self._shared.fill(self._blocked_minute)
            except (RedisError, OSError) as error:
                self._fall_back_to_local(error)

    def _count(self, seconds: int) -> int:
        """Count a call where it can be counted now; return the length of the window that is full, or 0."""
        if self._shared is None or time.monotonic() < self._redis_from:
            return self._local.count(seconds)
        try:
            window = self._shared.count(seconds)
        except (RedisError, OSError) as error:
            self._fall_back_to_local(error)
            return self._local.count(seconds)
        if self._is_local:
            self._is_local = False
            log.info("drive.rate_limit_shared")
        return window

    def _fall_back_to_local(self, error: Exception) -> None:
        self._redis_from = time.monotonic() + REDIS_RETRY_AFTER
        if not self._is_local:
            self._is_local = True
            log.warning("drive.rate_limit_local", reason=type(error).__name__, per_minute=self._local.per_minute)


class _CallCounter:
    """Counts calls in windows that begin with the clock's minute and the UTC day, each under a key of its own.

    The fixed windows of `limits` begin with their first call. A key that names the minute keeps to the clock, whatever
    its expiry, and does not change with the limit: processes with other settings share the count.
    """

    def __init__(self, storage: Storage, per_minute: int, per_day: int) -> None:
        self._storage = storage
        self.per_minute, self._per_day = per_minute, per_day

    def count(self, seconds: int) -> int:
        """Count a call; return 0, or the length of the full window; a call over the minute is not in the day."""
        if self._storage.incr(f"minute:{seconds // MINUTE}", 2 * MINUTE) > self.per_minute:
            return MINUTE
        return DAY if self._storage.incr(f"day:{seconds // DAY}", DAY + MINUTE) > self._per_day else 0

    def fill(self, minute: int) -> None:
        """Leave no call in that minute, nor in the one before, where a process is whose clock is behind."""
        for each in (minute - 1, minute):
            self._storage.incr(f"minute:{each}", 2 * MINUTE, amount=self.per_minute)
