"""What a provider's answer comes to: a table."""

from datetime import UTC, datetime, timedelta

import pytest

from workers.push.http_status import LONGEST_AFTER, failure_for_status, parse_retry_after

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "span"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("9" * 400, None),
        ("0", timedelta()),
        (" 30 ", timedelta(seconds=30)),
        ("86400", LONGEST_AFTER),
        ("Mon, 04 May 2026 12:01:00 GMT", timedelta(minutes=1)),
        ("Mon, 04 May 2026 11:00:00 GMT", timedelta()),
        ("Mon, 04 May 2026 12:01:00 -0000", timedelta(minutes=1)),
        ("Mon, 99 May 2026 12:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(said, span):
    assert parse_retry_after(said, NOON) == span


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(200, None), (202, None), (204, None), (302, False), (400, False), (404, False), (429, True), (500, True)],
)
def test_a_status_decides_whether_a_retry_may_help(status, retryable):
    failure = failure_for_status("the service", status, None)
    assert (failure and failure.retryable) == retryable
