"""How many calls of the Drive API we allow ourselves: fewer than it does, in each clock minute and each UTC day.

All processes count in Redis together, by keys that name the minute and the day. When Redis is away each counts for
itself, and allows itself a twentieth: enough for what is urgent, and little enough for twenty processes.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import redis
import structlog
from redis.exceptions import RedisError

MINUTE_KEY, DAY_KEY, STOP_KEY = "webhooks:drive:minute:", "webhooks:drive:day:", "webhooks:drive:stop"
MINUTE, DAY = 60, 86_400
LOCAL_SHARE = 20
"""The part of the budget that a process has when it cannot ask the others."""

AWAY = 10.0
"""Seconds for which Redis is not asked again when it did not answer: each try may take as long as its timeout."""

MARGIN = timedelta(seconds=1)
"""How far into a new minute those go that waited for it: other clocks may be behind ours."""

log = structlog.get_logger()


class RateLimiter:
    """Says of each call when it may be made. Safe for threads."""

    def __init__(
        self,
        connection: redis.Redis | None,
        *,
        per_minute: int,
        per_day: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._connection = connection
        self._per_minute, self._per_day = per_minute, per_day
        self._now = now
        self._alone = _LocalCounter(max(1, per_minute // LOCAL_SHARE), max(1, per_day // LOCAL_SHARE))
        self._asked_again_at = 0.0
        self._is_alone = False
        self._stopped = -1
        self._told_until = 0

    def acquire(self) -> timedelta:
        """Take one call out of it and return no time at all, or return after how long to ask again."""
        now = self._now()
        seconds = int(now.timestamp())
        if seconds // MINUTE == self._stopped:
            return self._refused((seconds // MINUTE + 1) * MINUTE, now)
        if (counted := self._count_shared(seconds)) is not None:
            minute, day = counted
            most = (self._per_minute, self._per_day)
        else:
            minute, day = self._alone.count(seconds)
            most = self._alone.most
        if day > most[1]:
            return self._refused((seconds // DAY + 1) * DAY, now)
        if minute > most[0]:
            return self._refused((seconds // MINUTE + 1) * MINUTE, now)
        return timedelta()

    def block_this_minute(self) -> None:
        """Have no process call any more in this minute: we were told that it is too much."""
        minute = int(self._now().timestamp()) // MINUTE
        self._stopped = minute
        log.warning("drive.throttled")
        if self._connection is not None:
            try:
                self._connection.set(STOP_KEY, minute, ex=2 * MINUTE)
            except (RedisError, OSError) as error:
                self._fall_back_to_local(error)

    def _count_shared(self, seconds: int) -> tuple[int, int] | None:
        """Count a call in Redis: the calls of this minute and day with it; None if Redis cannot say."""
        if self._connection is None or time.monotonic() < self._asked_again_at:
            return None
        minute_key, day_key = f"{MINUTE_KEY}{seconds // MINUTE}", f"{DAY_KEY}{seconds // DAY}"
        try:
            with self._connection.pipeline(transaction=True) as pipeline:
                pipeline.incr(minute_key)
                pipeline.expire(minute_key, 2 * MINUTE)
                pipeline.incr(day_key)
                pipeline.expire(day_key, DAY + MINUTE)
                pipeline.get(STOP_KEY)
                minute, _, day, _, stopped = pipeline.execute()
            if stopped is not None and 0 <= int(stopped) - seconds // MINUTE <= 1:
                minute = self._per_minute + 1
            if minute > self._per_minute:
                self._connection.decr(day_key)  # it is not made today, or not yet
        except (RedisError, OSError) as error:
            self._fall_back_to_local(error)
            return None
        if self._is_alone:
            self._is_alone = False
            log.info("drive.budget_shared")
        return int(minute), int(day)

    def _refused(self, until: int, now: datetime) -> timedelta:
        """Have a call wait until then, and say so once: else nobody knows why nothing moves."""
        wait = datetime.fromtimestamp(until, UTC) + MARGIN - now
        if until != self._told_until:
            self._told_until = until
            log.info("drive.calls_held", seconds=round(wait.total_seconds(), 1))
        return wait

    def _fall_back_to_local(self, error: Exception) -> None:
        self._asked_again_at = time.monotonic() + AWAY
        if not self._is_alone:
            self._is_alone = True
            log.warning("drive.budget_alone", reason=type(error).__name__, per_minute=self._alone.most[0])


class _LocalCounter:
    """Counts the calls of this process."""

    def __init__(self, per_minute: int, per_day: int) -> None:
        self.most = (per_minute, per_day)
        self._lock = threading.Lock()
        self._minute, self._in_minute = 0, 0
        self._day, self._in_day = 0, 0

    def count(self, seconds: int) -> tuple[int, int]:
        with self._lock:
            minute, day = seconds // MINUTE, seconds // DAY
            if minute != self._minute:
                self._minute, self._in_minute = minute, 0
            if day != self._day:
                self._day, self._in_day = day, 0
            if self._in_minute >= self.most[0]:
                return self.most[0] + 1, self._in_day
            self._in_minute += 1
            self._in_day += 1
            return self._in_minute, self._in_day
