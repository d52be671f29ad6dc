"""A circuit breaker: who fails time and again is left alone for a while, then asked a single time.

A channel of pushes has one, and each policy at the charger. It lives in memory, as those who ask live long; another
process finds out for itself, at the price of five failures. Kept in Redis it would stop working with Redis.
"""

import time
from collections.abc import Callable
from datetime import timedelta

FAILURES = 5
"""So many in a row open it."""
PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=1)


class CircuitBreaker:
    """Says how often somebody may be asked. For one thread only."""

    def __init__(self, *, pause: timedelta = PAUSE, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether they are being left alone, or only asked once at a time."""
        return self._failures >= FAILURES

    def permits(self, wanted: int, *, in_flight: int) -> int:
        """Say how many of the wanted askings may go: all, none, or after a pause one that finds out."""
        if not self.is_open:
            return wanted
        return min(wanted, 1) if in_flight == 0 and self._clock() >= self._open_until else 0

    def record_success(self) -> None:
        """Note that they have answered as they should, be it with a refusal."""
        self._failures = 0

    def record_failure(self, after: timedelta | None = None) -> None:
        """Note that they could not answer now; `after` is how long they want to be left alone."""
        self._failures += 1
        if self.is_open:
            span = min(max(self._pause, after or timedelta()), LONGEST_PAUSE)
            self._open_until = self._clock() + span.total_seconds()
