"""Runs that have not ended: due, enqueued, running, crashed, expired."""

from datetime import timedelta

import pytest

from workers.ledger import run_schedule, runs
from workers.ledger.run_schedule import OpenRun
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome

SECOND = timedelta(seconds=1)


@pytest.fixture
def waiting(ledger):
    def make(number, **parts):
        ledger.store(ledger.delivery(f"d{number}"))
        ledger.run(f"d{number}", "warn", Outcome.WAITING, **parts)

    return make


def due(ledger, now, limit=100):
    with ledger.begin() as conn:
        groups = run_schedule.due_groups(conn, now)
        return [run for group in groups for run in run_schedule.due(conn, group, now, limit)]


def ids(found):
    return [run.delivery_id for run in found]


def test_runs_are_due_at_their_time_the_longest_due_first(ledger, waiting, noon):
    for number, seconds in enumerate([0, -2, 1, -1]):
        waiting(number, due_at=noon + seconds * SECOND)
    assert ids(due(ledger, noon)) == ["d1", "d3", "d0"]
    assert ids(due(ledger, noon, limit=1)) == ["d1"]


def test_a_due_run_names_its_queue_and_its_next_attempt(ledger, noon):
    ledger.store(ledger.delivery())
    ledger.run("d1", "warn", Outcome.AGAIN, attempts=2, queue="urgent")
    assert due(ledger, noon) == [OpenRun("d1", "warn", "urgent", 3, None)]


def test_an_enqueued_run_is_not_due_until_its_job_is_lost(ledger, waiting, noon):
    waiting(1)
    waiting(2, due_at=noon - SECOND)
    with ledger.begin() as conn:
        run_schedule.set_jobs(conn, {("d1", "warn"): "job"})
        run_schedule.set_jobs(conn, {})
        assert [(run.key, run.job_id) for run in run_schedule.enqueued(conn)] == [(("d1", "warn"), "job")]
    assert ids(due(ledger, noon)) == ["d2"]
    with ledger.begin() as conn:
        run_schedule.set_jobs(conn, {("d1", "warn"): None})
        assert run_schedule.enqueued(conn) == []
    assert ids(due(ledger, noon)) == ["d2", "d1"]


def test_two_clocks_never_enqueue_the_same_run(ledger, waiting, noon):
    for number in range(20):
        waiting(number)

    def enqueue(conn, number):
        found = run_schedule.due(conn, ("sessions", "warn"), noon, 10)
        run_schedule.set_jobs(conn, {run.key: f"job{number}" for run in found})
        return ids(found)

    shares = ledger.at_once(enqueue)
    enqueued = [delivery_id for share in shares for delivery_id in share]
    assert len(enqueued) == len(set(enqueued)) == 20


def test_a_claimed_run_is_running_and_no_longer_enqueued(ledger, waiting, noon):
    waiting(1)
    with ledger.begin() as conn:
        run_schedule.set_jobs(conn, {("d1", "warn"): "job"})
        runs.claim(conn, "warn", [("d1", 1)], "job", noon)
        run_schedule.set_jobs(conn, {("d1", "warn"): None})
        assert run_schedule.enqueued(conn) == []
        assert run_schedule.running(conn) == [OpenRun("d1", "warn", "sessions", 1, "job")]
    assert due(ledger, noon) == []


def test_a_crashed_run_is_due_again_until_it_has_crashed_too_many_workers(ledger, waiting, noon):
    waiting(1)
    for deaths in (1, 2, 3):
        with ledger.begin() as conn:
            assert runs.claim(conn, "warn", [("d1", deaths)], f"job{deaths}", noon)
            lost = run_schedule.fail_crashed(
                conn, run_schedule.running(conn), now=noon, deaths_allowed=3, error="the worker died"
            )
        expected = Outcome.DEAD if deaths == 3 else Outcome.AGAIN
        assert [(run.key, outcome) for run, outcome in lost] == [(("d1", "warn"), expected)]
        assert ledger.run_of("d1", "warn").error == "the worker died"
    assert ledger.run_of("d1", "warn").job_id is None
    assert ledger.state_of("d1") is DeliveryState.DEAD


def test_a_released_run_is_due_again_however_often_and_keeps_its_error(ledger, waiting, noon):
    waiting(1)
    for attempt in (1, 2, 3, 4):
        with ledger.begin() as conn:
            assert runs.claim(conn, "warn", [("d1", attempt)], "job", noon)
            left = run_schedule.running(conn)
            give_up = {"now": noon, "deaths_allowed": 3, "error": "the worker died"}
            if attempt == 1:
                run_schedule.fail_crashed(conn, left, **give_up)
            else:
                assert run_schedule.release(conn, left, now=noon, reason="away") == left
    again = ledger.run_of("d1", "warn")
    assert (again.outcome, again.due_at, again.job_id) == (Outcome.AGAIN, noon, None)
    assert (again.reason, again.error) == ("away", "the worker died")
    assert ledger.state_of("d1") is DeliveryState.RETRYING


def test_a_run_that_has_ended_meanwhile_has_not_crashed(ledger, waiting, noon):
    waiting(1)
    with ledger.begin() as conn:
        runs.claim(conn, "warn", [("d1", 1)], "job", noon)
        seen = run_schedule.running(conn)
    with ledger.begin() as conn:
        runs.finish(
            conn,
            "warn",
            [RunRecord(delivery_id="d1", handler="warn", attempts=1, outcome=Outcome.DONE, finished_at=noon)],
        )
        assert run_schedule.fail_crashed(conn, seen, now=noon, deaths_allowed=3, error="died") == []
        assert run_schedule.release(conn, seen, now=noon, reason="away") == []
    assert ledger.run_of("d1", "warn").outcome is Outcome.DONE


def test_news_of_a_session_wakes_the_runs_that_wait_for_it(ledger, waiting, noon):
    later = noon + timedelta(hours=1)
    waiting(1, due_at=later, waits_for="s1")
    waiting(2, due_at=later, waits_for="s2")
    waiting(3, due_at=later)
    with ledger.begin() as conn:
        assert run_schedule.wake_waiting(conn, ["s1", "s9"], noon) == 1
        assert run_schedule.wake_waiting(conn, [], noon) == 0
    assert ids(due(ledger, noon)) == ["d1"]


def test_a_run_whose_time_is_over_ends_moot_with_its_reason(ledger, waiting, noon):
    waiting(1, due_at=noon + SECOND, until_at=noon, reason="no driver", waits_for="s1")
    waiting(2, due_at=noon, until_at=noon + SECOND)
    with ledger.begin() as conn:
        assert run_schedule.expire(conn, noon) == [("d1", "warn")]
        assert run_schedule.expire(conn, noon) == []
    moot = ledger.run_of("d1", "warn")
    assert (moot.outcome, moot.reason, moot.finished_at) == (Outcome.MOOT, "no driver", noon)
    assert (moot.due_at, moot.until_at, moot.waits_for) == (None, None, None)
    assert ledger.state_of("d1") is DeliveryState.SETTLED
    assert ledger.state_of("d2") is DeliveryState.RETRYING
