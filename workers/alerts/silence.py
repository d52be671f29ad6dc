"""When silence is worth an alert: only at a time that has always been busy, as far as the ledger remembers."""

from collections.abc import Callable
from datetime import datetime, timedelta

WEEKS = 3
DAYS = 7


def comparable_windows(known_since: datetime | None, now: datetime, span: timedelta) -> list[datetime]:
    """Name the ends of the spans in the past that this one is like; none if there is too little of a past.

    They are at the same time of the same day of the week, in each of the last three weeks. While the ledger is younger
    than that, at the same time of each of the last seven days, working days and others.
    """
    for count, step in ((WEEKS, timedelta(weeks=1)), (DAYS, timedelta(days=1))):
        if known_since is not None and known_since <= now - count * step - span:
            return [now - number * step for number in range(1, count + 1)]
    return []


def baseline(count: Callable[[datetime], int], ends: list[datetime], busy: int) -> int | None:
    """Say how many events the quietest of these spans had; None unless every one of them was busy."""
    fewest: int | None = None
    for end in ends:
        found = count(end)
        if found < busy:
            return None
        fewest = found if fewest is None else min(fewest, found)
    return fewest
