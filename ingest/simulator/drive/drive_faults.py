"""Faults and rate limits of the simulated Drive API."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from random import Random

from ingest.errors import WebhooksError

DEFAULT_RATE = 0.2
"""The share of requests that a fault without a rate strikes."""


class DriveFault(StrEnum):
    """A way in which a request can go wrong."""

    THROTTLED = "429"
    """The response says that there were too many requests, without need."""
    BROKEN = "500"
    """The response is an error."""
    SLOW = "slow"
    """The response takes seconds."""
    NONSENSE = "nonsense"
    """The JSON of the response is cut off."""
    LOST = "lost"
    """A page of a list has a cursor, and no entries."""


class UnknownFault(WebhooksError, ValueError):
    """Raised for an unknown fault, or a rate that is not a number."""


@dataclass
class DriveFaults:
    """Draws the faults of each request at their rates, which may change; the same seed draws the same ones."""

    rates: Mapping[DriveFault, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Seed the generator."""
        self._random = Random(self.seed)  # noqa: S311  nothing secret is drawn

    def next_faults(self) -> frozenset[DriveFault]:
        """Return the faults of the next request."""
        # One draw a fault, so that the rate of one does not change which requests another strikes.
        return frozenset(fault for fault in DriveFault if self._random.random() < self.rates.get(fault, 0))


def parse_rates(text: str) -> dict[DriveFault, float]:
    """Parse faults by comma, each with an optional rate, as in `500:0.1,slow`. Raise UnknownFault."""
    rates: dict[DriveFault, float] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, _, rate = word.partition(":")
        try:
            rates[DriveFault(name)] = float(rate or DEFAULT_RATE)
        except ValueError:
            raise UnknownFault(f"Choose faults from {', '.join(DriveFault)}, by comma, as in 500:0.1,slow.") from None
    return rates


@dataclass
class RequestCounter:
    """Counts requests by clock minute and UTC day, with the limits of the Drive API."""

    per_minute: int = 3_000
    per_day: int = 1_000_000
    counts: Counter[str] = field(default_factory=Counter)
    """Requests by minute and by day, including those beyond the limit."""

    def count(self) -> bool:
        """Count a request, and return whether it is within the limits."""
        day, minute = f"{datetime.now(UTC):%Y-%m-%d}", f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
        self.counts.update((minute, day))
        return self.counts[minute] <= self.per_minute and self.counts[day] <= self.per_day
