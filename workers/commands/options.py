"""The options that several commands share, and how people may write a time."""

from datetime import UTC, datetime

import click

from ingest.config.durations import parse_duration

DEFAULT_LIMIT = 50
"""How many rows of a list a person is shown without asking."""


class TimeParam(click.ParamType[datetime]):
    """A point in time: ISO 8601 (on this machine's clock unless it has a zone), or how long ago."""

    name = "when"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse `2h` as two hours ago, `2025-06-12T10:56` as that time."""
        if isinstance(value, datetime):
            return value
        try:
            return point_in_time(str(value), now=datetime.now(UTC))
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither ISO 8601 (2025-06-12T10:56:51Z) nor a span (90s, 10m, 2h, 3d).", param, ctx
            )


def point_in_time(text: str, *, now: datetime) -> datetime:
    """Parse a time as a person writes it; raise ValueError or OverflowError."""
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
