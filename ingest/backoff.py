"""Exponential backoff: how long to wait after a number of failures in a row."""

import random
from dataclasses import dataclass
from datetime import timedelta

MAX_DOUBLINGS = 60


@dataclass(frozen=True)
class Backoff:
    """`first` after one failure, doubled with each further one up to `longest`."""

    first: timedelta
    longest: timedelta

    def delay(self, failures: int, *, jitter: float | None = None) -> timedelta:
        """Return the wait after so many failures in a row, 1 or more.

        Jitter, a random number from 0 to 1 unless it is given, takes up to half of the wait away, so that what failed
        together does not come back together.
        """
        drawn = random.random() if jitter is None else jitter  # noqa: S311 - spreads load, guards no secret
        seconds = self.first.total_seconds() * 2.0 ** min(failures - 1, MAX_DOUBLINGS)
        return timedelta(seconds=min(seconds, self.longest.total_seconds()) * (1 - drawn / 2))
