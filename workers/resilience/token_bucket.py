"""How many calls of the Drive API the clock may make now, so that they are spread over each minute."""

import threading
import time
from collections.abc import Callable

BURST_FRACTION = 6
"""What a sixth of a minute allows may be used at once, after a rest."""


class TokenBucket:
    """A bucket that fills evenly; calls take from it. For several threads."""

    def __init__(self, per_minute: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_minute / 60
        self._most = max(1.0, per_minute / BURST_FRACTION)
        self._left = self._most
        self._monotonic = monotonic
        self._filled_at = monotonic()
        self._lock = threading.Lock()

    def available(self) -> int:
        """Say how many calls may be made now."""
        with self._lock:
            self._fill()
            return max(0, int(self._left))

    def consume(self, calls: int) -> None:
        """Note that calls were made; more than were left delay the next ones."""
        with self._lock:
            self._fill()
            self._left -= calls

    def _fill(self) -> None:
        at = self._monotonic()
        self._left = min(self._most, self._left + (at - self._filled_at) * self._per_second)
        self._filled_at = at
