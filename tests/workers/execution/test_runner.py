"""One handler on one delivery: signals and errors become outcomes."""

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from handlers.kit.context import DeferredEffects, Push
from handlers.kit.signals import GiveUp, Moot, RetryLater
from workers.execution.run_result import MAX_CAUSES, RunResult, failed, format_stack, log_failures
from workers.ledger.states import Outcome
from workers.resilience.retry import RetryPolicy

AT = datetime(2026, 5, 4, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = RetryPolicy(attempts=3, first=timedelta(seconds=2), longest=HOUR)


def after(failure: BaseException, attempt: int = 1) -> RunResult:
    writes = DeferredEffects(pushes=(Push("driver", "title", "body", "key"),))
    done = RunResult(
        delivery_id="id",
        handler="handler",
        attempts=attempt,
        outcome=Outcome.DONE,
        started_at=AT,
        finished_at=AT,
        writes=writes,
    )
    return failed(done, failure, POLICY)


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


def test_a_retry_is_due_no_later_than_its_end() -> None:
    wish = RetryLater("busy", after=timedelta(days=1), until=AT + HOUR, session_id="S1")
    result = after(wish)
    assert (result.due_at, result.until_at, result.waits_for) == (AT + HOUR, AT + HOUR, "S1")


def broken(attempt: int) -> RunResult:
    """A run whose handler raised an error that quotes a driver, because of another one that does."""
    phones: dict[str, str] = {}
    try:
        try:
            phones["driver-1"]
        except KeyError as cause:
            raise ValueError(f"no phone: {cause}") from cause
    except ValueError as error:
        return after(error, attempt)


def test_each_failed_attempt_is_a_line_of_the_log_and_the_first_and_the_last_have_a_traceback() -> None:
    with capture_logs() as logs:
        log_failures([broken(attempt) for attempt in (1, 2, 3)])
    assert [line["event"] for line in logs] == ["run.failed"] * 3
    assert [line["log_level"] for line in logs] == ["warning", "warning", "error"]
    assert [(line["handler"], line["delivery"], line["attempt"]) for line in logs] == [
        ("handler", "id", n) for n in (1, 2, 3)
    ]
    assert {line["error"] for line in logs} == {"ValueError"}
    assert [line["outcome"] for line in logs] == ["again", "again", "dead"]
    assert [line["next_attempt_at"] is None for line in logs] == [False, False, True]
    assert ["exception" in line for line in logs] == [True, False, True]
    assert "in broken" in logs[0]["exception"]
    assert "KeyError" in logs[0]["exception"]


def test_what_waits_by_its_own_wish_has_not_failed() -> None:
    with capture_logs() as logs:
        log_failures([after(RetryLater("no driver yet")), after(Moot("over"))])
        log_failures([after(GiveUp("no such user"))])
    assert [(line["event"], line["error"], line["outcome"]) for line in logs] == [("run.failed", "GiveUp", "dead")]


def test_a_stack_names_the_types_of_an_error_and_of_its_causes_without_their_texts() -> None:
    error = ValueError("secret 1")
    error.__context__ = KeyError("secret 2")
    assert format_stack(error).count("secret") == 0
    assert format_stack(error).splitlines()[-1] == "ValueError"
    assert "KeyError" in format_stack(error)
    error.__suppress_context__ = True
    assert "KeyError" not in format_stack(error)
    error.__cause__ = error  # nobody does that
    assert format_stack(error).count("ValueError") == MAX_CAUSES
