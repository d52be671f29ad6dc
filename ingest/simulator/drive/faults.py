"""What goes wrong with the simulated Drive API, done on purpose."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from random import Random

from ingest.errors import WebhooksError

# The part of all requests that a fault befalls where nothing else is said.
DEFAULT_RATE = 0.2

PER_MINUTE = 3000
PER_DAY = 1_000_000
MINUTE, DAY = "%Y-%m-%d %H:%M", "%Y-%m-%d"


class DriveFault(StrEnum):
    """A way to go wrong."""

    THROTTLED = "429"
    """The answer is that there were too many requests, although there were not."""
    BROKEN = "500"
    """The answer is an error."""
    SLOW = "slow"
    """The answer takes its time."""
    NONSENSE = "nonsense"
    """The answer is cut off in the middle of its JSON."""
    LOST = "lost"
    """A page of a list comes without its entries; its cursor goes on."""


class UnknownFault(WebhooksError, ValueError):
    """Raised for a fault that nobody knows, or a rate that is none."""


@dataclass
class DriveFaults:
    """Strikes requests with faults, each at its rate; the same seed strikes the same requests. May be changed."""

    rates: Mapping[DriveFault, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Begin to draw."""
        self._random = Random(self.seed)  # noqa: S311  nothing secret is drawn

    def next_fault(self) -> frozenset[DriveFault]:
        """Say what goes wrong with the next request."""
        # One draw for each fault there is, so that the rate of one has no influence on where another strikes.
        return frozenset(fault for fault in DriveFault if self._random.random() < self.rates.get(fault, 0))


def read_rates(text: str) -> dict[DriveFault, float]:
    """Read faults by comma, each with its rate if it is not the usual one: `500:0.1,slow`. Raises UnknownFault."""
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
    """Counts requests as Plugsurfing does: by clock minute and by UTC day."""

    per_minute: int = PER_MINUTE
    per_day: int = PER_DAY
    counted: Counter[str] = field(default_factory=Counter)
    """Requests by minute and by day, those beyond the limit too."""

    def count(self) -> bool:
        """Count a request, and say whether it is within the limits."""
        now = datetime.now(UTC)
        minute, day = now.strftime(MINUTE), now.strftime(DAY)
        self.counted.update((minute, day))
        return self.counted[minute] <= self.per_minute and self.counted[day] <= self.per_day
