"""The one way in which commands list: as a table for people, one JSON object a line, or CSV."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Self, TypeVar

import click

from workers.commands import options
from workers.commands.output import json_line, table
from workers.lists.listing import Listing

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page:
    """How much of a list is wanted, and in which form."""

    limit: int | None = None
    as_json: bool = False
    as_csv: bool = False

    @property
    def is_for_people(self) -> bool:
        """Whether it is a table, with what else a person wants to know."""
        return not (self.as_json or self.as_csv)

    @classmethod
    def of(cls, limit: int | None, *, as_json: bool, as_csv: bool = False) -> Self:
        """Return what the options ask for: without a limit a program reads all rows, a person a screen."""
        if as_json and as_csv:
            raise click.UsageError("Choose --csv or --json.")
        return cls(limit or (None if as_json or as_csv else options.DEFAULT_LIMIT), as_json, as_csv)


def print_rows(listing: Listing[Row], rows: Iterable[Row], page: Page) -> None:
    """Print rows: as JSON or CSV each as soon as it is read, else as a table, with a hint if the limit cut it."""
    if page.as_csv:
        listing.write_csv(sys.stdout, rows)
        return
    if page.as_json:
        for row in rows:
            json_line(listing.json(row))
        return
    cells = [listing.cells(row) for row in rows]
    table(list(listing.columns), cells, wrapping=listing.wrapping)
    if len(cells) == page.limit:
        click.echo(f"The {listing.order} {len(cells)}; --limit shows more.", err=True)


def paged(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--limit`, `--json` and `--csv` to a command, which receives them as its argument `page`."""

    @wraps(command)
    def with_page(*args: object, limit: int | None, as_json: bool, as_csv: bool, **given: object) -> None:
        command(*args, page=Page.of(limit, as_json=as_json, as_csv=as_csv), **given)

    return options.limit(options.as_json(options.as_csv(with_page)))
