"""The result of a bench: rows of samples, and columns that show their medians and spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles


@dataclass(frozen=True)
class Column:
    """A column: its title, the key of its samples, the decimals shown, and whether least and most are shown."""

    title: str
    key: str
    decimals: int = 0
    spread: bool = True

    def cell(self, row: "Row") -> str:
        """Format the median of a row's samples, and the least and the most if there are several."""
        values = row.samples.get(self.key, [])
        if not values:
            return "–"
        middle = f"{median(values):,.{self.decimals}f}"
        if len(values) == 1 or not self.spread:
            return middle
        return f"{middle} ({min(values):,.{self.decimals}f}–{max(values):,.{self.decimals}f})"


@dataclass
class Row:
    """What was measured of one target: under each key one sample a run."""

    name: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)

    def add(self, **measured: float) -> None:
        """Add the samples of one run."""
        for key, value in measured.items():
            self.samples.setdefault(key, []).append(value)

    def remark(self, counts: Mapping[str, int]) -> None:
        """Count what a reader must see beside the figures, such as responses other than 200."""
        for what, count in counts.items():
            self.remarks[what] = self.remarks.get(what, 0) + count


@dataclass(frozen=True)
class Report:
    """One bench's table."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""


def add_ratios(rows: Sequence[Row], key: str, to: Row, name: str) -> None:
    """Add the ratio of every row to another one, run by run: the machine's drift cancels out within a run."""
    for row in rows:
        for own, other in zip(row.samples.get(key, ()), to.samples.get(key, ()), strict=False):
            row.add(**{name: own / other if other else 0.0})


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile; 0 if there are no values."""
    return percentile(values, 99)


def percentile(values: Sequence[float], rank: int) -> float:
    """Return a percentile, 1 to 99; 0 if there are no values."""
    if len(values) < 2:
        return next(iter(values), 0.0)
    return quantiles(values, n=100, method="inclusive")[rank - 1]
