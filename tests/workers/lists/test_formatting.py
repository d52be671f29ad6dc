from datetime import UTC, datetime, timedelta
from time import tzset

import pytest

from workers.lists.formatting import clock_name, human_duration, iso, local, printable, printable_body


@pytest.fixture
def in_berlin(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        tzset()
        yield
    tzset()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zürich", "Zürich"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\t\0", "a\\nb\\t\\x00"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
        ("\x9b", "\\x9b"),
    ],
)
def test_nothing_printed_moves_a_cursor(text, shown):
    assert printable(text) == shown


def test_a_body_keeps_its_lines():
    assert printable_body(b"a\nb\r\n\xff\x00") == "a\nb\\r\n\\xff\\x00"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0851, "85 ms"),
        (4.21, "4.2 s"),
        (-4.21, "-4.2 s"),
        (720, "12 min"),
        (10_800, "3 h"),
        (86_400 * 3, "3 d"),
    ],
)
def test_a_span_is_formatted_in_the_unit_that_fits(seconds, words):
    assert human_duration(timedelta(seconds=seconds)) == words


def test_a_time_is_iso_8601_in_utc_for_programs():
    assert iso(datetime(2026, 5, 4, 12, tzinfo=UTC)) == "2026-05-04T12:00:00Z"
    assert iso(None) is None


def test_a_time_of_today_has_no_date_for_people():
    now = datetime.now(UTC)

    assert local(now) == now.astimezone().strftime("%H:%M:%S")
    assert local(now - timedelta(days=400)).startswith(str((now - timedelta(days=400)).astimezone().date()))


def test_a_time_of_summer_names_its_zone_in_winter_and_the_doubled_hour_is_told_apart(in_berlin):
    times = [datetime(2025, 1, 1, 12, tzinfo=UTC), datetime(2025, 7, 1, 12, tzinfo=UTC)]
    times += [datetime(2025, 10, 26, hour, 30, tzinfo=UTC) for hour in (0, 1)]
    whole = [f"2025-{each}" for each in ("01-01 13:00:00 CET", "07-01 14:00:00 CEST")]
    whole += [f"2025-10-26 02:30:00 {zone}" for zone in ("CEST", "CET")]
    # The heading above them names the zone of now.
    assert [local(each) for each in times] == [each.removesuffix(f" {clock_name()}") for each in whole]
