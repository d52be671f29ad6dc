from datetime import UTC, datetime, timedelta

import pytest

from handlers import GiveUp, Moot, PushFailed, RetryLater


@pytest.mark.parametrize("signal", [RetryLater, GiveUp, Moot])
def test_a_signal_tells_its_reason(signal):
    assert signal("nobody is there").reason == str(signal("nobody is there")) == "nobody is there"


def test_a_retry_says_when_and_for_what_it_waits():
    until = datetime(2025, 6, 12, tzinfo=UTC)
    later = RetryLater("not yet", after=timedelta(seconds=5), until=until, session_id="S")
    assert (later.after, later.until, later.session_id) == (timedelta(seconds=5), until, "S")


def test_a_retry_may_leave_everything_to_the_policy():
    later = RetryLater("not yet")
    assert (later.after, later.until, later.session_id) == (None, None, None)


def test_an_end_without_a_time_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        RetryLater("not yet", until=datetime(2025, 6, 12))  # noqa: DTZ001 - that is the point


@pytest.mark.parametrize("raised", [RetryLater, PushFailed])
def test_a_wait_beyond_the_calendar_is_a_long_one(raised):
    assert datetime.now(UTC) + raised("not yet", after=timedelta.max).after
    assert datetime.now(UTC) + raised("not yet", after=timedelta.min).after


@pytest.mark.parametrize("raised", [RetryLater, PushFailed])
def test_a_wait_that_is_no_span_is_refused_where_it_is_said(raised):
    with pytest.raises(TypeError):
        raised("not yet", after=30)


def test_signals_are_told_apart():
    assert not issubclass(Moot, GiveUp)
    assert not issubclass(GiveUp, RetryLater)
