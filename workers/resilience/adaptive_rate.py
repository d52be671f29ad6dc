"""Adaptive rate: as many calls a second as a service takes.

It begins with a slow start, in which each accepted call permits more. When the service refuses too many, it falls to
what was accepted, and grows again from there.
"""

import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from workers.resilience.token_bucket import TokenBucket

START = 200.0
"""Calls a second after a pause."""
GAIN = 3.0
"""So many more calls a second for each call that was accepted in the last second."""
SPAN = 1.0
"""Seconds over which answers are counted."""
INTERVAL = 0.25
"""Seconds between two decreases: a decrease shows its effect first."""
TOLERANCE = 2.0
"""Up to this ratio of calls to accepted calls nothing is decreased: a third of the recipients may be at fault."""
OVERSHOOT = 0.05
"""How much faster than accepted the calls are made if what is refused is known to be accepted later."""
LEAST = 50.0
"""Calls a second that are made at least, unless what is refused is known to be accepted later."""
ENOUGH = 30
"""So many answers in the span are evidence."""
GROWTH = 0.1
"""The rate grows by this part, times the square of the seconds since the last decrease (as CUBIC does, RFC 9438)."""
WEIGHT = 0.1
"""The weight of the latest sample in the share of refused calls that are accepted later."""


class AdaptiveRate:
    """Limits how many calls may be made now. For one thread only."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._answers: deque[tuple[float, bool]] = deque()
        self._accepted = 0
        self._base: float | None = None
        self._decreased_at = 0.0
        self._recovered = 0.0
        self._bucket = TokenBucket(60 * int(START), monotonic=monotonic)

    @property
    def limit(self) -> float:
        """Calls a second that may be made."""
        at = self._monotonic()
        self._drop_old(at)
        slow_start = START + GAIN * self._accepted
        if self._base is None:
            return slow_start
        passed = at - self._decreased_at
        return min(slow_start, self._base * (1 + GROWTH * passed * passed))

    def available(self, wanted: int) -> int:
        """Return how many of the wanted calls may be made now."""
        self._bucket.change(self.limit * 60, burst=timedelta(seconds=INTERVAL))
        return min(wanted, self._bucket.available())

    def consume(self, calls: int) -> None:
        """Consume the calls that are made."""
        self._bucket.consume(calls)

    def record(self, *, accepted: bool) -> None:
        """Record the answer to a call to a recipient that had not failed before, or one that was accepted."""
        at = self._monotonic()
        self._drop_old(at)
        if accepted and not self._accepted:
            self._answers.clear()  # where nothing was accepted at all, the rate was not to blame
        self._answers.append((at, accepted))
        self._accepted += accepted
        if not accepted and self._accepted and at - self._decreased_at >= INTERVAL:
            self._decrease(at)

    def record_retry(self, *, accepted: bool) -> None:
        """Record whether a recipient was accepted whose call before had been refused as one too many."""
        self._recovered += WEIGHT * (accepted - self._recovered)

    def _decrease(self, at: float) -> None:
        known = min(1.0, 2 * self._recovered)
        tolerance = TOLERANCE - (TOLERANCE - 1 - OVERSHOOT) * known
        answers = len(self._answers)
        if answers < ENOUGH or answers <= self._accepted * tolerance:
            return
        rate = tolerance * self._accepted / SPAN
        self._base = max(min(rate, self.limit), LEAST * (1 - known), 1.0)
        self._decreased_at = at

    def _drop_old(self, at: float) -> None:
        while self._answers and self._answers[0][0] < at - SPAN:
            self._accepted -= self._answers.popleft()[1]
