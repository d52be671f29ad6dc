"""The options that several commands share, and how people may write a time."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import click

from workers.lists.time_parsing import parse_since, parse_time

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


WHEN = Parsed("when", parse_time)
since_option = partial(click.option, "--since", type=Parsed("when", parse_since), metavar="WHEN")
until_option = partial(click.option, "--until", type=WHEN, metavar="WHEN")
user = click.option("--user", "user_id", metavar="ID", help="The driver, in any case.")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
as_csv = click.option("--csv", "as_csv", is_flag=True, help="CSV, with the fields of --json.")
since = since_option(help="Received then or later: 10m, 2h or 3d ago, today, yesterday, 18:00, ISO 8601.")
until = until_option(help="Received before then.")
limit = click.option(
    "--limit", type=click.IntRange(min=1), help=f"How many. Default: {DEFAULT_LIMIT}, with --json and --csv all."
)
