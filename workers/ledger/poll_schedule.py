"""When a session is to be read again at the Drive API; pure."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from ingest.backoff import Backoff
from ingest.config.settings import Settings

STARTING = "WAITING_TO_START"
STARTS_WITHIN = timedelta(minutes=2)
"""How long Plugsurfing says that a session may take from WAITING_TO_START to STARTED."""


@dataclass(frozen=True)
class PollSchedule:
    """How long to wait: after the last news, between two looks, and altogether."""

    after: timedelta
    longest: timedelta
    give_up_after: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take it from the settings."""
        return cls(settings.reconcile_after, settings.reconcile_longest, settings.reconcile_for)

    def delay(self, looks: int, status: str | None = None) -> timedelta:
        """Say how long to wait after so many looks in a row that showed nothing new; it doubles."""
        first = min(self.after, STARTS_WITHIN) if status == STARTING else self.after
        return Backoff(first, max(self.longest, first)).delay(looks + 1, jitter=0)
