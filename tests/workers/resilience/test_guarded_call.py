"""Calls of plugin code: what it raises is returned, and what takes too long is interrupted."""

import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from rq.timeouts import JobTimeoutException

from workers.resilience.guarded_call import (
    CallTimedOut,
    HandlerDeadline,
    HandlerTimedOut,
    TimedCall,
    call_guarded,
    deadline_in,
)

LONG, SHORT = timedelta(seconds=20), timedelta(milliseconds=10)


def test_a_deadline_interrupts_a_call_that_computes() -> None:
    def compute_forever() -> None:
        while True:
            pass

    with HandlerDeadline(timedelta(milliseconds=10)) as deadline, pytest.raises(HandlerTimedOut, match=r"0\.01 s"):
        deadline.call(compute_forever)


@pytest.mark.parametrize("raised", ["", "; raise SystemExit(1)"])
def test_a_copy_of_the_process_that_a_call_forks_ends_with_the_call(raised: str) -> None:
    program = f"""
import os
from datetime import timedelta
from workers.resilience.guarded_call import HandlerDeadline, call_guarded

def fork():
    if os.fork() == 0:
        pass{raised}
    else:
        os.wait()

with HandlerDeadline(timedelta(seconds=20)) as deadline:
    call_guarded(deadline.call, fork)
    os.write(1, b"once")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert ended.stdout == b"once"


def test_a_deadline_restores_the_outer_alarm() -> None:
    alarms: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: alarms.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with HandlerDeadline(timedelta(seconds=5)) as deadline:
            deadline.call(bool)
        end = time.monotonic() + 5
        while not alarms and time.monotonic() < end:
            signal.pause()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert alarms == [signal.SIGALRM]


def test_a_deadline_that_was_not_reached_leaves_no_alarm_behind() -> None:
    with HandlerDeadline(timedelta(seconds=5)) as deadline:
        deadline.call(bool)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_was_left_of_the_outer_alarm_is_left_afterwards() -> None:
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        signal.setitimer(signal.ITIMER_REAL, 60)
        with HandlerDeadline(timedelta(seconds=5)) as deadline:
            deadline.call(bool)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert left > 30


def test_the_timeout_of_the_whole_job_is_raised_and_not_returned() -> None:
    def late() -> None:
        raise JobTimeoutException("Task exceeded maximum timeout value")

    with pytest.raises(JobTimeoutException):
        call_guarded(late)


@pytest.mark.parametrize("raised", [ValueError("odd"), SystemExit(2), KeyboardInterrupt()])
def test_whatever_a_plugin_raises_is_returned(raised: BaseException) -> None:
    def fail() -> None:
        raise raised

    assert call_guarded(fail) == (None, raised)


def test_the_result_of_a_call_is_returned() -> None:
    assert call_guarded(divmod, 7, 2) == ((3, 1), None)


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
