from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ingest.wire.timestamps import parse_timestamp

NOON = datetime(2025, 6, 12, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2025-06-12T12:00:00Z",
        "2025-06-12t12:00:00z",
        "2025-06-12 12:00:00Z",
        "2025-06-12 12:00:00 +00:00",
        "2025-06-12T12:00Z",
        "2025-06-12T14:00:00+02:00",
        "2025-06-12T14:00:00+0200",
        "2025-06-12T14:00:00+02",
        "2025-06-12T06:30:00-05:30",
        "2025-06-12T12:00:00-00:00",
        "2025-06-12T12:00:00",
        "  2025-06-12T12:00:00Z\n",
        "1749729600",
        "1749729600.000",
        "1749729600000",
        1749729600,
        1749729600.0,
        1749729600000,
        Decimal("1749729600.000"),
        NOON,
        NOON.replace(tzinfo=None),
        NOON.astimezone(timezone(timedelta(hours=9))),
    ],
)
def test_every_usual_form_of_a_time_is_parsed(text):
    moment = parse_timestamp(text)
    assert moment == NOON
    assert moment.tzinfo is UTC


@pytest.mark.parametrize("text", ["2016-12-31T23:59:60Z", "2016-12-31T23:59:60", "2017-01-01T00:59:60.000+01:00"])
def test_a_leap_second_is_the_one_after_it(text):
    assert parse_timestamp(text) == datetime(2017, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("digits", range(1, 13))
def test_fractions_are_parsed_with_any_number_of_digits(digits):
    fraction = "913499728156"[:digits]
    moment = parse_timestamp(f"2025-06-12T12:00:00.{fraction}Z")
    assert moment.microsecond == int(fraction[:6].ljust(6, "0"))
    assert parse_timestamp(f"2025-06-12T12:00:00,{fraction}Z") == moment


@pytest.mark.parametrize(
    "value",
    [
        "",
        "now",
        "2025-06-12",
        "20250612T120000Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "12025-06-12T12:00:00Z",
        "2025-13-01T00:00:00Z",
        "2025-12-31T23:60:00Z",
        "2025-12-31T23:59:61Z",
        "2025-02-30T00:00:00Z",
        "2025-06-12T25:00:00Z",
        "2025-06-12T12:00:00.Z",
        "2025-06-12T12:00:00+25:00",
        "2025-06-12T12:00:00+02:75",
        "2025-06-12T12:00:00+2",
        "2025-06-12T12:00:00 CET",
        "٢٠٢٥-06-12T12:00:00Z",
        "9" * 18,
        "9" * 5000,
        10**400,
        -(10**18),
        1e300,
        float("nan"),
        float("inf"),
        True,
        None,
        [],
        {"seconds": 1},
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_what_is_not_a_time_is_refused(value):
    with pytest.raises(ValueError, match=r".+"):
        parse_timestamp(value)


@given(
    st.datetimes(),
    st.timedeltas(min_value=timedelta(hours=-23), max_value=timedelta(hours=23)),
    st.sampled_from(["T", "t", " "]),
)
def test_any_time_is_parsed_from_any_offset(naive, offset, separator):
    assume(2 < naive.year < 9998)
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=offset // timedelta(minutes=1))))
    assert parse_timestamp(moment.isoformat(separator)) == moment


@given(st.one_of(st.text(), st.integers(), st.floats(), st.from_regex(r"\A[0-9TZ:+.\- ]{0,40}\Z")))
@example("-0")
def test_nothing_but_a_value_error_is_ever_raised(value):
    with suppress(ValueError):
        assert parse_timestamp(value).tzinfo is UTC


@given(st.integers(min_value=0, max_value=99_999_999_999))
def test_seconds_and_milliseconds_are_distinguished(seconds):
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    assert parse_timestamp(seconds) == expected
    if seconds >= 100_000_000:
        assert parse_timestamp(seconds * 1000) == expected
