from datetime import UTC, datetime, timedelta
from time import tzset

import pytest

from workers.commands.options import point_in_time

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("1.5h", timedelta(minutes=90)),
        ("3d", timedelta(days=3)),
        ("1w", timedelta(days=7)),
        ("2026-05-04T11:00:00Z", timedelta(hours=1)),
        ("2026-05-04T13:00:00+02:00", timedelta(hours=1)),
        (" 2026-05-04 11:59Z", timedelta(minutes=1)),
    ],
)
def test_a_time_is_iso_8601_or_how_long_ago(text, ago):
    assert point_in_time(text, now=NOW) == NOW - ago


def test_a_time_without_a_zone_is_on_this_machines_clock():
    assert point_in_time("2026-05-04T11:00", now=NOW) == datetime(2026, 5, 4, 11).astimezone()


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("today", "2026-05-04T00:00-04:00"),
        ("Yesterday", "2026-05-03T00:00-04:00"),
        ("09:30", "2026-05-04T09:30-04:00"),
        ("9:30:15", "2026-05-04T09:30:15-04:00"),
        ("18:00", "2026-05-04T18:00-04:00"),
        ("2025-11-28", "2025-11-28T00:00-05:00"),
    ],
)
def test_a_day_and_a_time_of_day_are_on_this_machines_clock(text, local, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    tzset()
    try:
        assert point_in_time(text, now=NOW) == datetime.fromisoformat(local)
    finally:
        monkeypatch.undo()
        tzset()


@pytest.mark.parametrize("text", ["", "tomorrow", "25:00", "18:60", "10", "10x", "99999999999999d", "2026-13-01"])
def test_anything_else_is_refused(text):
    with pytest.raises((ValueError, OverflowError)):
        point_in_time(text, now=NOW)
