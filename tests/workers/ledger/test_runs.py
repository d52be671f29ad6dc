"""Runs: inserted once, claimed by one worker, and ended by the worker whose attempt it is."""

import itertools
from datetime import timedelta

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from workers.ledger import run_schedule, runs
from workers.ledger.runs import RunRecord
from workers.ledger.states import Outcome


def new(delivery_id="d1", handler="warn", outcome=Outcome.DONE, **parts):
    return RunRecord(delivery_id=delivery_id, handler=handler, queue="urgent", outcome=outcome, **parts)


def claim(ledger, noon, *attempts, handler="warn", job_id="job"):
    with ledger.begin() as conn:
        return runs.claim(conn, handler, attempts, job_id, noon)


def finish(ledger, noon, attempt, outcome, **parts):
    with ledger.begin() as conn:
        return runs.finish(
            conn,
            "warn",
            [RunRecord(delivery_id="d1", handler="warn", attempts=attempt, outcome=outcome, finished_at=noon, **parts)],
        )


def test_the_first_insert_of_a_run_owns_its_effects(ledger):
    with ledger.begin() as conn:
        assert runs.insert_runs(conn, [new("d1"), new("d2")]) == {("d1", "warn"), ("d2", "warn")}
    with ledger.begin() as conn:
        assert runs.insert_runs(conn, [new("d2"), new("d2", "bill")]) == {("d2", "bill")}
        assert runs.insert_runs(conn, []) == set()


def test_of_workers_that_insert_the_same_runs_one_owns_each(ledger):
    wanted = [new(f"d{number}", handler) for number in range(30) for handler in ("warn", "bill")]
    shares = ledger.at_once(lambda conn, number: runs.insert_runs(conn, wanted if number % 2 else wanted[::-1]))
    assert sorted(key for share in shares for key in share) == sorted((run.delivery_id, run.handler) for run in wanted)


def test_an_error_with_any_text_can_be_stored(ledger):
    ledger.store(ledger.delivery())
    with ledger.begin() as conn:
        runs.insert_runs(conn, [new(outcome=Outcome.DEAD, reason="\x00", error="\ud800 \x00", traceback="é\x00")])
    kept = ledger.run_of("d1", "warn")
    assert (kept.reason, kept.error, kept.traceback) == ("\\u0000", "\\ud800 \\u0000", "é\\u0000")


@pytest.mark.parametrize("outcome", [Outcome.WAITING, Outcome.AGAIN])
def test_an_open_run_that_is_never_due_is_refused(ledger, outcome):
    with pytest.raises(IntegrityError), ledger.begin() as conn:
        runs.insert_runs(conn, [new(outcome=outcome)])


@pytest.mark.parametrize("outcome", [Outcome.WAITING, Outcome.AGAIN, Outcome.DEAD])
def test_a_waiting_or_requeued_run_is_claimed_for_its_next_attempt(ledger, noon, outcome):
    ledger.store(ledger.delivery())
    ledger.run("d1", "warn", outcome, attempts=3)
    assert claim(ledger, noon, ("d1", 3)) == []
    assert claim(ledger, noon, ("d1", 5)) == []
    assert claim(ledger, noon, ("d1", 4), handler="bill") == []
    assert claim(ledger, noon, ("d1", 4)) == [("d1", 4)]
    claimed = ledger.run_of("d1", "warn")
    assert (claimed.outcome, claimed.attempts, claimed.job_id) == (Outcome.RUNNING, 4, "job")
    assert (claimed.started_at, claimed.due_at) == (noon, None)


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.RUNNING, Outcome.IGNORED, Outcome.MOOT])
def test_a_final_or_running_run_cannot_be_claimed(ledger, noon, outcome):
    ledger.store(ledger.delivery())
    ledger.run("d1", "warn", outcome)
    assert claim(ledger, noon, ("d1", 2)) == []


def test_of_workers_that_claim_the_same_runs_one_wins_each(ledger, noon):
    ledger.store(*[ledger.delivery(f"d{number}") for number in range(5)])
    for number in range(5):
        ledger.run(f"d{number}", "warn", Outcome.WAITING)
    wanted = [(f"d{number}", 1) for number in range(5)]
    shares = ledger.at_once(
        lambda conn, number: runs.claim(conn, "warn", wanted[:: 1 - number % 2 * 2], f"job{number}", noon)
    )
    assert sorted(each for share in shares for each in share) == wanted


def test_an_attempt_is_ended_once(ledger, noon):
    ledger.store(ledger.delivery())
    ledger.run("d1", "warn", Outcome.WAITING)
    claim(ledger, noon, ("d1", 1))
    assert finish(ledger, noon, 1, Outcome.DEAD, error="ValueError: no", traceback="lines")
    assert not finish(ledger, noon, 1, Outcome.DONE)
    ended = ledger.run_of("d1", "warn")
    assert (ended.outcome, ended.error, ended.traceback) == (Outcome.DEAD, "ValueError: no", "lines")
    assert (ended.finished_at, ended.job_id) == (noon, None)  # the job may be a dead letter that was put back


def test_a_worker_that_was_given_up_ends_nothing(ledger, noon):
    ledger.store(ledger.delivery())
    ledger.run("d1", "warn", Outcome.WAITING)
    claim(ledger, noon, ("d1", 1))
    with ledger.begin() as conn:
        run_schedule.fail_crashed(conn, run_schedule.running(conn), now=noon, deaths_allowed=3, error="died")
    claim(ledger, noon, ("d1", 2), job_id="another")
    assert not finish(ledger, noon, 1, Outcome.DONE)
    assert finish(ledger, noon, 2, Outcome.DONE)


def test_a_run_to_be_tried_again_has_no_job(ledger, noon):
    ledger.store(ledger.delivery())
    ledger.run("d1", "warn", Outcome.WAITING)
    claim(ledger, noon, ("d1", 1))
    later = noon + timedelta(seconds=2)
    assert finish(ledger, noon, 1, Outcome.AGAIN, due_at=later, until_at=later, waits_for="s1", reason="no driver")
    again = ledger.run_of("d1", "warn")
    assert (again.outcome, again.job_id, again.due_at) == (Outcome.AGAIN, None, later)
    assert (again.until_at, again.waits_for, again.reason) == (later, "s1", "no driver")


def test_many_attempts_are_ended_in_two_statements(ledger, noon):
    ids = [f"d{number}" for number in range(50)]
    ledger.store(*map(ledger.delivery, ids))
    for name in ids:
        ledger.run(name, "warn", Outcome.WAITING)
    claim(ledger, noon, *((name, 1) for name in ids))
    endings = itertools.cycle([(Outcome.DONE, None), (Outcome.AGAIN, noon)])
    ended = [
        RunRecord(
            delivery_id=name,
            handler="warn",
            attempts=2 if name == "d7" else 1,
            outcome=outcome,
            finished_at=noon,
            due_at=due_at,
        )
        for name, (outcome, due_at) in zip(ids, endings, strict=False)
    ]
    asked = []

    def note(_conn, _cursor, statement, *_):
        asked.append(statement)

    with ledger.begin() as conn:
        event.listen(conn, "before_cursor_execute", note)
        assert runs.finish(conn, "warn", ended) == {*ids} - {"d7"}
    assert len(asked) == 2
    found = [ledger.run_of(name, "warn") for name in ("d6", "d7", "d9")]
    assert [(run.outcome, run.job_id) for run in found] == [
        (Outcome.DONE, "job"),
        (Outcome.RUNNING, "job"),
        (Outcome.AGAIN, None),
    ]
