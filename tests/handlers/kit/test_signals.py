from datetime import UTC, datetime, timedelta

import pytest

from handlers import GiveUp, Moot, PushFailed, RetryLater


@pytest.mark.parametrize("signal", [RetryLater, GiveUp, Moot])
def test_a_signal_has_its_reason(signal):
    assert signal("nobody is there").reason == str(signal("nobody is there")) == "nobody is there"


def test_a_retry_has_its_delay_and_its_session():
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
def test_a_delay_beyond_the_calendar_is_clamped(raised):
    assert datetime.now(UTC) + raised("not yet", after=timedelta.max).after
    assert datetime.now(UTC) + raised("not yet", after=timedelta.min).after


@pytest.mark.parametrize("raised", [RetryLater, PushFailed])
def test_a_delay_that_is_not_a_timedelta_is_refused_where_it_is_made(raised):
    with pytest.raises(TypeError):
        raised("not yet", after=30)


def test_signals_are_distinct():
    assert not issubclass(Moot, GiveUp)
    assert not issubclass(GiveUp, RetryLater)
