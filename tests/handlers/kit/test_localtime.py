from datetime import UTC, datetime, timedelta

import pytest

from handlers.kit.localtime import LocalTime, parse_locale, parse_time_zone


@pytest.mark.parametrize(
    ("text", "locale"),
    [
        ("de", "de"),
        ("nl-BE", "nl-BE"),
        ("de_DE.UTF-8", "de-DE"),
        ("de-DE@euro", "de-DE"),
        ("en-US-u-fw-mon-mu-celsius", "en-US"),
        ("zh_Hans_CN", "zh-Hans-CN"),
        ("zh-cmn-hans-cn", "zh-Hans-CN"),
        ("ca-ES-valencia", "ca-ES"),
        ("es-419", "es-419"),
        ("DE_at", "de-AT"),
        ("de-DE,en;q=0.9", "de-DE"),
        ("iw_IL", "he-IL"),
        ("deu", "de"),
        ("de-XQ", "de"),
        *((text, None) for text in ("", " ", "C", "C.UTF-8", "POSIX", "und", "english", "../../etc", "\ud800", "\0")),
        *((text, None) for text in (None, 7, True, ["de"], {"language": "de"}, "d" * 50_000)),
    ],
)
def test_what_can_be_understood_of_a_locale_counts(text, locale):
    assert parse_locale(text) == locale


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("America/New York", "America/New_York"),
        ("Asia/Calcutta", "Asia/Calcutta"),
        ("US/Pacific", "US/Pacific"),
        ("Etc/GMT-2", "Etc/GMT-2"),
        ("W. Europe Standard Time", "Europe/Berlin"),
        ("GMT+02:00", "UTC+02:00"),
        ("UTC+5:30", "UTC+05:30"),
        ("-0330", "UTC-03:30"),
        ("utc\N{MINUS SIGN}3", "UTC-03:00"),
        ("GMT+00:00", "UTC"),
        *((text, None) for text in ("", " ", "Asia/Hanoi", "Factory", "CEST", "GMT+15:00", "GMT+02:75", "UTC+")),
        *((text, None) for text in ("../../../etc/passwd", "\0", "\ud800", "Z" * 50_000, None, 120, ["Europe/Berlin"])),
    ],
)
def test_what_can_be_understood_of_a_time_zone_counts(text, zone):
    assert parse_time_zone(text) == zone


@pytest.mark.parametrize("zone", ["UTC+05:30", "utc+5:30", "Asia/Kolkata", "India Standard Time"])
def test_a_time_is_formatted_in_a_zone_of_any_spelling(zone):
    at = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
    assert str(LocalTime.of(at, "de", zone, at)) == "17:30"


@pytest.mark.parametrize(
    ("at", "zone", "text"),
    [
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "Europe/Berlin", "02:30 (UTC+2)"),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "Europe/Berlin", "02:30 (UTC+1)"),
        (datetime(2026, 10, 25, 2, 0, tzinfo=UTC), "Europe/Berlin", "03:00"),
        (datetime(2026, 10, 24, 23, 59, tzinfo=UTC), "Europe/Berlin", "01:59"),
        (datetime(2026, 3, 29, 1, 0, tzinfo=UTC), "Europe/Berlin", "03:00"),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "Europe/London", "01:30 (UTC)"),
        (datetime(2026, 4, 4, 15, 0, tzinfo=UTC), "Australia/Lord_Howe", "01:30 (UTC+10:30)"),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "UTC+02:00", "02:30"),
    ],
)
def test_the_hour_that_comes_twice_names_its_offset(at, zone, text):
    assert str(LocalTime.of(at, "de", zone, at - timedelta(minutes=10))) == text
