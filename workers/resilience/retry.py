"""The retry policy of runs and pushes: when a failed attempt is repeated, and which attempt is the last."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from ingest.backoff import Backoff
from ingest.config.settings import Settings


@dataclass(frozen=True)
class RetryPolicy(Backoff):
    """A backoff that ends after so many attempts."""

    attempts: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the policy of the settings."""
        return cls(settings.retry_first, settings.retry_longest, settings.retry_attempts)

    def next_at(self, attempt: int, failed_at: datetime, *, jitter: float | None = None) -> datetime | None:
        """Return when to try again after the given attempt (1 is the first) failed; None after the last one."""
        if attempt >= self.attempts:
            return None
        return failed_at + self.delay(attempt, jitter=jitter)
