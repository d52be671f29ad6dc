"""Calls that may hang: whoever waits gets an answer by the deadline."""

import threading
from datetime import timedelta

from workers.resilience.timed_call import CallTimedOut, TimedCall, deadline_in

LONG, SHORT = timedelta(seconds=20), timedelta(milliseconds=10)


def test_what_a_call_returns_is_its_result() -> None:
    assert TimedCall(divmod, 7, 3).result(deadline_in(LONG)) == ((2, 1), None)


def test_what_a_call_raises_is_returned_beside_no_result() -> None:
    result, raised = TimedCall(divmod, 7, 0).result(deadline_in(LONG))
    assert result is None
    assert isinstance(raised, ZeroDivisionError)


def test_a_call_that_hangs_times_out_and_can_be_joined_later() -> None:
    released = threading.Event()
    call = TimedCall(released.wait)
    result, raised = call.result(deadline_in(SHORT))
    assert result is None
    assert isinstance(raised, CallTimedOut)
    assert call.is_running
    released.set()
    call.join()
    assert not call.is_running
