"""The result of a bench: rows of samples, shown as a table of medians with their spread, or as one JSON object each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import click

from workers.commands.output import Json, table


@dataclass(frozen=True)
class Column:
    """A column: its title, the key of its samples, and how many decimals they are worth."""

    title: str
    key: str
    decimals: int = 0
    spread: bool = True


@dataclass
class Row:
    """Everything that was measured of one contestant; a sample a run under each key."""

    name: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)

    def add(self, **measured: float) -> None:
        """Add one run."""
        for key, value in measured.items():
            self.samples.setdefault(key, []).append(value)

    def remark(self, counts: Mapping[str, int]) -> None:
        """Count what must be seen beside the figures, such as answers that were not 200."""
        for what, count in counts.items():
            self.remarks[what] = self.remarks.get(what, 0) + count


@dataclass(frozen=True)
class Report:
    """One bench's table."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""

    def show(self) -> None:
        """Print the table."""
        click.echo(f"\n{self.title}\n")
        table(
            ["", *(column.title for column in self.columns)],
            [
                [row.name, *(_cell(column, row.samples.get(column.key, [])) for column in self.columns)]
                for row in self.rows
            ],
        )
        click.echo(f"\n{self.caption}")
        for row in self.rows:
            for what, count in sorted(row.remarks.items()):
                click.echo(f"{row.name}: {count} × {what}")

    def objects(self) -> list[dict[str, Json]]:
        """Return the rows for programs, with every sample."""
        return [
            {
                "bench": self.title,
                "row": row.name,
                "figures": {
                    key: {"median": median(values), "min": min(values), "max": max(values), "samples": values}
                    for key, values in row.samples.items()
                },
                "remarks": row.remarks,
            }
            for row in self.rows
        ]


def add_ratios(rows: Sequence[Row], key: str, to: Row, name: str) -> None:
    """Give every row its ratio to another, run by run: runs lie side by side, so the machine's drift cancels out."""
    for row in rows:
        for own, other in zip(row.samples.get(key, ()), to.samples.get(key, ()), strict=False):
            row.add(**{name: own / other if other else 0.0})


def _cell(column: Column, values: Sequence[float]) -> str:
    if not values:
        return "–"
    middle = f"{median(values):,.{column.decimals}f}"
    if len(values) == 1 or not column.spread:
        return middle
    return f"{middle} ({min(values):,.{column.decimals}f}–{max(values):,.{column.decimals}f})"
