"""The options that several commands share, and how people may write a time."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import click

from ingest.config.durations import parse_duration

T = TypeVar("T")

DEFAULT_LIMIT = 50
"""How many rows of a list a person is shown without asking."""


class Parsed(click.ParamType[T]):
    """The type of an option whose text a function parses; its ValueError becomes a usage error."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        """Name the type in `--help`."""
        self.name, self.parse = name, parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Parse the text."""
        try:
            return self.parse(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: {str(error).rstrip('.')}.", param, ctx)


def parse_time(text: str) -> datetime:
    """Parse `2h` as two hours ago, `2025-06-12T10:56` as that time; raise ValueError."""
    try:
        return point_in_time(text, now=datetime.now(UTC))
    except (ValueError, OverflowError):
        raise ValueError("neither ISO 8601 (2025-06-12T10:56:51Z) nor a span (90s, 10m, 2h, 3d)") from None


def point_in_time(text: str, *, now: datetime) -> datetime:
    """Parse ISO 8601 (this machine's clock unless it has a zone), or how long ago; raise ValueError, OverflowError."""
    if text.strip()[-1:] in set("smhdw"):  # a bare number is no duration here: it may be a year
        return now - parse_duration(text)
    return datetime.fromisoformat(text.strip()).astimezone(UTC)


WHEN = Parsed("when", parse_time)
since_option = partial(click.option, "--since", type=WHEN, metavar="WHEN")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
since = since_option(help="Received then or later: ISO 8601, or 10m, 2h, 3d ago.")
until = click.option("--until", type=WHEN, metavar="WHEN", help="Received before then.")
limit = click.option(
    "--limit", type=click.IntRange(min=1), help=f"How many. Default: {DEFAULT_LIMIT}, with --json all."
)
