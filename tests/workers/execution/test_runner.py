"""One handler on one delivery: how signals and errors become outcomes."""

import signal
import time
from datetime import UTC, datetime, timedelta

import pytest
from rq.timeouts import JobTimeoutException

from handlers.kit.context import DeferredEffects, Push
from handlers.kit.signals import GiveUp, Moot, RetryLater
from workers.execution import runner
from workers.execution.runner import HandlerTimedOut, HandlerTimeout, RunResult, call_guarded, failed
from workers.ledger.states import Outcome
from workers.resilience.retry import RetryPolicy

AT = datetime(2026, 5, 4, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = RetryPolicy(attempts=3, first=timedelta(seconds=2), longest=HOUR)


def after(failure: BaseException, attempt: int = 1) -> RunResult:
    writes = DeferredEffects(pushes=(Push("driver", "title", "body", "key"),))
    return failed(RunResult("id", "handler", attempt, Outcome.DONE, AT, AT, writes), failure, POLICY)


@pytest.mark.parametrize(
    ("failure", "attempt", "outcome"),
    [
        (ValueError("odd"), 1, Outcome.AGAIN),
        (ValueError("odd"), 3, Outcome.DEAD),
        (SystemExit(2), 1, Outcome.AGAIN),
        (GiveUp("no such user"), 1, Outcome.DEAD),
        (Moot("over"), 3, Outcome.MOOT),
        (RetryLater("no driver yet"), 1, Outcome.AGAIN),
        (RetryLater("no driver yet"), 3, Outcome.DEAD),
        (RetryLater("no driver yet", until=AT + HOUR), 99, Outcome.AGAIN),
        (RetryLater("no driver yet", until=AT), 1, Outcome.MOOT),
        (RetryLater("never again", after=timedelta.max), 1, Outcome.AGAIN),
        (RetryLater("long ago", after=timedelta.min), 1, Outcome.AGAIN),
    ],
)
def test_what_a_handler_raises_decides_its_outcome(failure: BaseException, attempt: int, outcome: Outcome) -> None:
    assert after(failure, attempt).outcome is outcome


def test_a_run_that_failed_writes_nothing() -> None:
    assert after(ValueError("odd")).writes == DeferredEffects()


def test_an_error_leaves_a_traceback_and_a_signal_its_reason() -> None:
    error, wish = after(ValueError("odd")), after(RetryLater("no driver yet"))
    assert (error.error, wish.error) == ("ValueError: odd", None)
    assert "ValueError: odd" in str(error.traceback)
    assert wish.reason == "no driver yet"


def test_an_error_that_no_database_can_hold_is_escaped() -> None:
    assert after(ValueError("\0\ud800")).error == r"ValueError: \u0000\ud800"


def test_a_run_that_wants_to_come_later_comes_no_later_than_its_end() -> None:
    wish = RetryLater("busy", after=timedelta(days=1), until=AT + HOUR, session_id="S1")
    result = after(wish)
    assert (result.due_at, result.expires_at, result.waits_for) == (AT + HOUR, AT + HOUR, "S1")


def test_a_deadline_rings_in_the_middle_of_the_work() -> None:
    def work_for_ever() -> None:
        while True:
            pass

    with HandlerTimeout(timedelta(milliseconds=10)) as deadline, pytest.raises(HandlerTimedOut, match=r"0\.01 s"):
        deadline.call_guarded(work_for_ever)


def test_a_deadline_gives_the_outer_alarm_back() -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with HandlerTimeout(timedelta(seconds=5)) as deadline:
            deadline.call_guarded(bool)
        end = time.monotonic() + 5
        while not rung and time.monotonic() < end:
            signal.pause()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == [signal.SIGALRM]


def test_a_deadline_that_was_not_reached_leaves_no_alarm_behind() -> None:
    with HandlerTimeout(timedelta(seconds=5)) as deadline:
        deadline.call_guarded(bool)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_clock_that_is_set_forward_does_not_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((AT, AT + HOUR))
    monkeypatch.setattr(runner, "now", lambda: next(times))
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        signal.setitimer(signal.ITIMER_REAL, 60)
        with HandlerTimeout(timedelta(seconds=5)) as deadline:
            deadline.call_guarded(bool)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert left > 30


def test_the_timeout_of_the_whole_job_is_not_a_plugins_failure() -> None:
    def late() -> None:
        raise JobTimeoutException("Task exceeded maximum timeout value")

    with pytest.raises(JobTimeoutException):
        call_guarded(late)
