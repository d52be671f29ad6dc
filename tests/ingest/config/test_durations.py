from datetime import timedelta

import pytest

from ingest.config.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("written", "duration", "formatted"),
    [
        ("5", timedelta(seconds=5), "5 s"),
        ("2.5", timedelta(seconds=2.5), "2500 ms"),
        ("250ms", timedelta(milliseconds=250), "250 ms"),
        ("5s", timedelta(seconds=5), "5 s"),
        (" 10 m ", timedelta(minutes=10), "10 m"),
        ("90m", timedelta(hours=1.5), "90 m"),
        ("1h", timedelta(hours=1), "1 h"),
        ("8d", timedelta(days=8), "8 d"),
        ("2w", timedelta(weeks=2), "14 d"),
        ("0", timedelta(), "0 s"),
        ("0.0005", timedelta(microseconds=500), "0.0005 s"),
        (3, timedelta(seconds=3), "3 s"),
        (0.5, timedelta(seconds=0.5), "500 ms"),
        (timedelta(days=1), timedelta(days=1), "1 d"),
    ],
)
def test_a_duration_is_parsed_and_formatted(written, duration, formatted):
    assert parse_duration(written) == duration
    assert format_duration(duration) == formatted
    assert parse_duration(formatted) == duration


@pytest.mark.parametrize(
    "written", ["", "s", "-1", "1y", "1h30m", "5  s", "inf", "nan", "1e3", "999999999999d", "1000000d", True, None]
)
def test_anything_else_is_refused(written):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(written)
