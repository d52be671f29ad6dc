"""Spans of time as people write them in settings: `2.5`, `250ms`, `5s`, `10 m`, `1h`, `8d`."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import PlainValidator

SPAN = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) ?(ms|s|m|h|d)?", re.ASCII)
UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}


def parse_duration(value: object) -> timedelta:
    """Read a span; a bare number counts seconds. Raise ValueError for what is none."""
    if isinstance(value, timedelta):
        return value
    found = SPAN.fullmatch(str(value).strip())
    if found is None:
        raise ValueError("is not a span of time such as 2.5, 250ms, 5s, 10m, 1h or 8d")
    try:
        return float(found[1]) * UNITS[found[2] or "s"]
    except OverflowError:
        raise ValueError("is too long a span of time") from None


def format_duration(span: timedelta) -> str:
    """Write a span in the largest unit that needs no fraction: `10 m`, `250 ms`, `2500 ms`."""
    for unit, length in UNITS.items():
        if span and not span % length:
            return f"{span // length} {unit}"
    return f"{span.total_seconds():g} s"


def _read_some(value: object) -> timedelta:
    span = parse_duration(value)
    if not span:
        raise ValueError("must be longer than nothing")
    return span


PositiveDuration = Annotated[timedelta, PlainValidator(_read_some)]
Duration = Annotated[timedelta, PlainValidator(parse_duration)]
