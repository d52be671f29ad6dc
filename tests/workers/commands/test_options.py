from datetime import UTC, datetime, timedelta

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


@pytest.mark.parametrize("text", ["", "yesterday", "10", "10x", "99999999999999d", "2026-13-01"])
def test_anything_else_is_refused(text):
    with pytest.raises((ValueError, OverflowError)):
        point_in_time(text, now=NOW)
