"""When a run that failed is tried again, and when it has been tried often enough."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from ingest.config.settings import Settings


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff: `first`, doubled with every attempt up to `longest`, until `attempts` are used up."""

    attempts: int
    first: timedelta
    longest: timedelta

    @classmethod
    def of(cls, settings: Settings) -> "RetryPolicy":
        """Read the policy that the operator chose."""
        return cls(settings.retry_attempts, settings.retry_first, settings.retry_longest)

    def delay(self, attempt: int, *, jitter: float | None = None) -> timedelta:
        """Say how long to wait after the given attempt (1 is the first).

        Jitter, drawn from 0 to 1, takes up to half of the span away, so that runs that failed together do not come
        back together.
        """
        drawn = random.random() if jitter is None else jitter  # noqa: S311 - spreads load, guards no secret
        doublings = min(attempt - 1, 32)
        return min(self.first * float(2**doublings), self.longest) * (1 - drawn / 2)

    def next_at(self, attempt: int, failed_at: datetime, *, jitter: float | None = None) -> datetime | None:
        """Say when to try again after the given attempt failed; None when that was the last one."""
        if attempt >= self.attempts:
            return None
        return failed_at + self.delay(attempt, jitter=jitter)
