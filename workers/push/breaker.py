"""A circuit breaker: a provider that fails time and again is left alone for a while, then asked with a single push.

`workers.judges.sparing` has one for each policy, and puts a single question to it.

It lives in memory. All pushes of a channel are sent by one thread of the clock, a process that lives long; a second
clock finds out for itself, at the price of five pushes that come back later. Kept in Redis it would stop working with
Redis, and sending does not need Redis otherwise.
"""

import time
from collections.abc import Callable
from datetime import timedelta

FAILURES = 5
"""So many in a row open it."""
PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=1)


class Breaker:
    """Says how many pushes a channel may be handed. For one thread only."""

    def __init__(self, *, pause: timedelta = PAUSE, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the channel is being left alone, or only asked with one push at a time."""
        return self._failures >= FAILURES

    def places(self, wanted: int, *, in_flight: int) -> int:
        """Say how many of the wanted pushes may go: all, none, or after a pause one that finds out."""
        if not self.is_open:
            return wanted
        return min(wanted, 1) if in_flight == 0 and self._clock() >= self._open_until else 0

    def succeeded(self) -> None:
        """Note that the provider has answered as it should, be it with a refusal of that push."""
        self._failures = 0

    def failed(self, after: timedelta | None = None) -> None:
        """Note that the provider could not take a push now; `after` is how long it wants to be left alone."""
        self._failures += 1
        if self.is_open:
            span = min(max(self._pause, after or timedelta()), LONGEST_PAUSE)
            self._open_until = self._clock() + span.total_seconds()
