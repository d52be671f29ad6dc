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
    [
        *((status, None) for status in (200, 202, 204)),
        *((status, False) for status in (400, 409, 410, 413, 415, 422)),
        *((status, True) for status in (302, 401, 403, 404, 405, 407, 408, 425, 429, 500, 503)),
    ],
)
def test_a_status_decides_whether_a_retry_may_help(status, retryable):
    failure = failure_for_status("the service", status, None)
    assert (failure and failure.retryable) == retryable


def test_only_too_many_requests_asks_for_fewer_calls():
    throttled = {status for status in range(300, 600) if failure_for_status("the service", status, None).throttled}
    assert throttled == {429}
