"""Tolerant parsing of timestamps, and the wall clock."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

# What `datetime.fromisoformat` may parse: not a date alone, a week date or an offset of seconds.
ISO_8601 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?( ?)(?:[Zz]|[+-]\d\d(?::?[0-5]\d)?)?", re.ASCII
)
NUMBER = re.compile(r"-?\d{1,18}(?:\.\d+)?", re.ASCII)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

LEAP_SECOND = re.compile(r"(?<=\d\d:\d\d):60")

# As seconds this is the year 5138, as milliseconds 1973: no session started on the wrong side of it.
MILLISECONDS_FROM = 100_000_000_000


def utc_now() -> datetime:
    """Return the time on the machine's wall clock."""
    return datetime.now(UTC)


def parse_timestamp(value: object) -> datetime:
    """Parse ISO 8601 with any number of fraction digits and any offset, or seconds or milliseconds since 1970.

    Without an offset it is UTC; a leap second is the next one. The result is in UTC, cut to microseconds.
    Raise ValueError for anything else.
    """
    try:
        match value:
            case datetime():
                return _in_utc(value)
            case str():
                return _from_text(value.strip())
            case Decimal():
                return _from_epoch(float(value))
            case int() | float() if not isinstance(value, bool):
                return _from_epoch(value)
    except OverflowError:
        raise ValueError("is out of range") from None
    raise ValueError("is not a timestamp")


def _from_text(text: str) -> datetime:
    found = ISO_8601.fullmatch(text)
    if found is None:
        if NUMBER.fullmatch(text):
            return _from_epoch(float(text) if "." in text else int(text))
        raise ValueError("is not a timestamp")
    written = (f"{text[: found.start(1)]}{text[found.end(1) :]}" if found[1] else text).upper()
    if ":60" not in written:
        return _in_utc(datetime.fromisoformat(written))
    # A leap second (RFC 3339, 5.7), which no clock of ours has, is read as the second after it.
    within, is_leap = LEAP_SECOND.subn(":59", written, count=1)
    return _in_utc(datetime.fromisoformat(within)) + timedelta(seconds=is_leap)


def _in_utc(at: datetime) -> datetime:
    if at.tzinfo is UTC:  # also of "Z"
        return at
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def _from_epoch(number: float) -> datetime:
    if abs(number) >= MILLISECONDS_FROM:
        return EPOCH + timedelta(milliseconds=number)
    return EPOCH + timedelta(seconds=number)
