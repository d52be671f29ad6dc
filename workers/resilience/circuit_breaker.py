"""Circuit breaker: stop calling what keeps failing, then let one trial call through after a pause.

Each push channel and each policy has one. It lives in memory: another process finds out for itself at the price of five
failures, and the breaker works without Redis.
"""

import time
from collections.abc import Callable
from datetime import timedelta

FAILURES = 5
"""So many in a row open it."""
PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=1)


class CircuitBreaker:
    """Limits how many calls may be made. For one thread only."""

    def __init__(
        self,
        *,
        pause: timedelta = PAUSE,
        patience: timedelta = timedelta(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open it when nothing has succeeded for the patience."""
        self._pause = pause
        self._patience = patience
        self._clock = clock
        self._failures = 0
        self._failing_since = 0.0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are stopped, or made one at a time to try."""
        return self._failures >= FAILURES and self._clock() - self._failing_since >= self._patience.total_seconds()

    def permits(self, wanted: int, *, in_flight: int) -> int:
        """Return how many of the wanted calls may be made: all, none, or after a pause one as a trial."""
        if not self.is_open:
            return wanted
        return min(wanted, 1) if in_flight == 0 and self._clock() >= self._open_until else 0

    def record_success(self) -> None:
        """Record that a call was answered, be it with a refusal."""
        self._failures = 0

    def record_failure(self, after: timedelta | None = None) -> None:
        """Record that a call could not be answered; `after` is the pause that was asked for."""
        if not self._failures:
            self._failing_since = self._clock()
        self._failures += 1
        if self._failures >= FAILURES:
            span = min(max(self._pause, after or timedelta()), LONGEST_PAUSE)
            self._open_until = self._clock() + span.total_seconds()
