"""How people may write a time."""

import re
from datetime import UTC, date, datetime, time, timedelta

from ingest.config.durations import parse_duration

DAYS = {"today": 0, "yesterday": 1}


TIME_OF_DAY = re.compile(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?")


def parse_time(text: str) -> datetime:
    """Parse `2h` as two hours ago, `18:00` or `2025-06-12T10:56` as that time; raise ValueError."""
    try:
        return point_in_time(text, now=datetime.now(UTC))
    except (ValueError, OverflowError):
        raise ValueError(
            "neither ISO 8601 (2025-06-12T10:56:51Z), a time of today (18:00), today or yesterday,"
            " nor a span (90s, 10m, 2h, 3d)"
        ) from None


def parse_since(text: str) -> datetime:
    """Parse as `parse_time` does, but a time of day as the last one that has been; raise ValueError.

    At two in the morning `18:00` means the evening before: since a time to come there is nothing to list.
    """
    found, now = parse_time(text), datetime.now(UTC)
    if found <= now or not TIME_OF_DAY.fullmatch(text.strip()):
        return found
    return point_in_time(text, now=now - timedelta(days=1))


def point_in_time(text: str, *, now: datetime) -> datetime:
    """Parse ISO 8601, a time of today, the name of a day, or how long ago; raise ValueError, OverflowError.

    What has no zone is on this machine's clock.
    """
    name = text.strip().lower()
    if name in DAYS:
        return _local(now.astimezone().date() - timedelta(days=DAYS[name]), time())
    if TIME_OF_DAY.fullmatch(name):
        return _local(now.astimezone().date(), time.fromisoformat(f"0{name}" if name[1] == ":" else name))
    if name[-1:] in set("smhdw"):  # a bare number is no duration here: it may be a year
        return now - parse_duration(text)
    return datetime.fromisoformat(text.strip()).astimezone(UTC)


def _local(day: date, at: time) -> datetime:
    """Return a time on this machine's clock, whose offset may be another one on that day."""
    return datetime.combine(day, at).astimezone(UTC)
