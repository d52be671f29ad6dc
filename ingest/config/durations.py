"""Durations as people write them: `2.5`, `250ms`, `5s`, `10 m`, `1h`, `8d`, `2w`."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, PlainValidator

DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) ?(ms|s|m|h|d|w)?", re.ASCII)
UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
LONGEST = timedelta(days=365_000)
"""A thousand years: so long before or after today there are still dates."""


def parse_duration(value: object) -> timedelta:
    """Parse a duration; a bare number counts seconds. Raise ValueError."""
    if isinstance(value, timedelta):
        return value
    found = DURATION.fullmatch(str(value).strip())
    if found is None:
        raise ValueError("is not a duration such as 2.5, 250ms, 5s, 10m, 1h, 8d or 2w")
    try:
        duration = float(found[1]) * UNITS[found[2] or "s"]
    except OverflowError:
        duration = timedelta.max
    if duration > LONGEST:
        raise ValueError("is too long a duration")
    return duration


def format_duration(duration: timedelta) -> str:
    """Format a duration in the largest unit up to days that needs no fraction: `10 m`, `250 ms`, `2500 ms`."""
    for unit, length in UNITS.items():
        if unit != "w" and duration and not duration % length:
            return f"{duration // length} {unit}"
    return f"{duration.total_seconds():g} s"


def at_least(shortest: timedelta) -> AfterValidator:
    """Return the validator of a duration that must not be shorter."""

    def check(duration: timedelta) -> timedelta:
        if duration < shortest:
            raise ValueError(f"must be at least {format_duration(shortest)}")
        return duration

    return AfterValidator(check)


def _parse_positive(value: object) -> timedelta:
    duration = parse_duration(value)
    if not duration:
        raise ValueError("must be longer than zero")
    return duration


PositiveDuration = Annotated[timedelta, PlainValidator(_parse_positive)]
Duration = Annotated[timedelta, PlainValidator(parse_duration)]
