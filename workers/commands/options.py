"""The options that several commands share, and how people may write a time."""

from datetime import UTC, datetime

import click

from ingest.config.durations import parse_duration

DEFAULT_LIMIT = 50
"""How many rows of a list a person is shown without asking."""


class TimeParam(click.ParamType[datetime]):
    """A point in time: ISO 8601 (on this machine's clock unless it says otherwise), or how long ago."""

    name = "when"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read `2h` as two hours ago and `2025-06-12T10:56` as it says."""
        if isinstance(value, datetime):
            return value
        try:
            return point_in_time(str(value), now=datetime.now(UTC))
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither ISO 8601 (2025-06-12T10:56:51Z) nor a span (90s, 10m, 2h, 3d).", param, ctx
            )


def point_in_time(text: str, *, now: datetime) -> datetime:
    """Read a time as a person writes it; raises ValueError or OverflowError."""
    if text.strip()[-1:] in set("smhdw"):  # a bare number is no duration here: it may be a year
        return now - parse_duration(text)
    return datetime.fromisoformat(text.strip()).astimezone(UTC)


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
since = click.option(
    "--since", type=TimeParam(), metavar="WHEN", help="Received then or later: ISO 8601, or 10m, 2h, 3d ago."
)
until = click.option("--until", type=TimeParam(), metavar="WHEN", help="Received before then.")
limit = click.option(
    "--limit", type=click.IntRange(min=1), help=f"How many. Default: {DEFAULT_LIMIT}, with --json all."
)


def limit_for(given: int | None, *, as_json: bool) -> int | None:
    """Decide how many: a program wants all of them, a person a screen."""
    return given or (None if as_json else DEFAULT_LIMIT)


def warn_if_truncated(count: int, limit: int | None) -> None:
    """Tell a person that there may be more than is shown."""
    if count == limit:
        click.echo(f"The newest {count}; --limit shows more.", err=True)
