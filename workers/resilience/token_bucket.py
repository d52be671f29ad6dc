"""Token bucket: spreads the calls that the clock may make evenly over each minute."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

BURST = timedelta(seconds=10)
"""The calls of such a span may be made at once."""


class TokenBucket:
    """A bucket that fills evenly, and from which calls consume. For several threads."""

    def __init__(self, per_minute: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._set(per_minute, BURST)
        self._tokens = self._capacity
        self._monotonic = monotonic
        self._filled_at = monotonic()
        self._lock = threading.Lock()

    def available(self) -> int:
        """Return how many calls may be made now."""
        with self._lock:
            self._fill()
            return max(0, int(self._tokens))

    def consume(self, calls: int) -> None:
        """Consume the tokens of calls; more than are available delay the next ones."""
        with self._lock:
            self._fill()
            self._tokens -= calls

    def change(self, per_minute: float, *, burst: timedelta) -> None:
        """Change the rate, from now on, and the span of which the calls may be made at once."""
        with self._lock:
            self._fill()
            self._set(per_minute, burst)

    def _set(self, per_minute: float, burst: timedelta) -> None:
        self._per_second = per_minute / 60
        self._capacity = max(1.0, self._per_second * burst.total_seconds())

    def _fill(self) -> None:
        at = self._monotonic()
        self._tokens = min(self._capacity, self._tokens + (at - self._filled_at) * self._per_second)
        self._filled_at = at
