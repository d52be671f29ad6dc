"""Runs that have ended: dead letters, and what a replay reopens."""

from datetime import timedelta

from workers.ledger import deliveries, finished_runs, recorded_runs, run_schedule
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome


def test_a_dead_run_is_reopened_with_the_next_attempt(ledger, noon):
    ledger.store(ledger.delivery())
    ledger.run("d1", "warn", Outcome.DEAD, attempts=12, job_id="dead-1")
    ledger.run("d1", "bill", Outcome.DONE)
    later = noon + timedelta(days=1)
    with ledger.begin() as conn:
        assert finished_runs.reopen(conn, ["d1"], None, later) == 1
        assert [(one.handler, one.attempt) for one in run_schedule.due(conn, ("background", "warn"), later, 10)] == [
            ("warn", 13)
        ]
        assert deliveries.get(conn, "d1").settled_at is None
    assert ledger.state_of("d1") is DeliveryState.RETRYING
    assert ledger.run_of("d1", "bill").outcome is Outcome.DONE


def test_only_the_wanted_runs_are_reopened(ledger, noon):
    ledger.store(ledger.delivery("d1"), ledger.delivery("d2"))
    ledger.run("d1", "warn", Outcome.MOOT)
    ledger.run("d1", "bill", Outcome.DEAD)
    ledger.run("d2", "warn", Outcome.DONE)
    with ledger.begin() as conn:
        assert finished_runs.reopen(conn, ["d1", "d2"], "warn", noon) == 1
        assert finished_runs.reopen(conn, ["d1", "d2"], "warn", noon, [Outcome.DONE, Outcome.RUNNING]) == 1
        assert finished_runs.reopen(conn, [], None, noon) == 0
    assert ledger.run_of("d1", "bill").outcome is Outcome.DEAD
    assert ledger.run_of("d2", "warn").outcome is Outcome.WAITING


def test_a_new_handler_gets_its_run(ledger, noon):
    ledger.store(ledger.delivery())
    ledger.run("d1", "warn", Outcome.DONE)
    wanted = [
        RunRecord(delivery_id="d1", handler=handler, queue="other", outcome=Outcome.WAITING, due_at=noon)
        for handler in ("warn", "bill")
    ]
    with ledger.begin() as conn:
        finished_runs.insert_missing(conn, wanted)
    assert [(run.handler, run.queue) for run in ledger.show("d1").runs] == [("bill", "other"), ("warn", "sessions")]
    assert ledger.state_of("d1") is DeliveryState.RETRYING


def test_a_final_run_can_be_deleted_and_an_open_one_not(ledger):
    ledger.store(ledger.delivery("d1"), ledger.delivery("d2"))
    ledger.run("d1", "*", Outcome.IGNORED)
    ledger.run("d1", "warn", Outcome.DONE)
    ledger.run("d2", "*", Outcome.WAITING)
    with ledger.begin() as conn:
        finished_runs.delete_finished(conn, ["d1", "d2"], "*")
        assert recorded_runs.existing(conn, ["d1", "d2"]) == {("d1", "warn"), ("d2", "*")}


def test_a_dead_run_is_unpublished_until_its_dead_letter_is_marked(ledger):
    ledger.store(*[ledger.delivery(f"d{number}") for number in range(5)])
    for number, job_id in enumerate([None, "dead-d1", "abc", "deae", "dead-d4"]):
        ledger.run(f"d{number}", "warn", Outcome.DEAD, job_id=job_id, error="ValueError: no", traceback="lines")
    ledger.run("d1", "bill", Outcome.DONE)
    with ledger.begin() as conn:
        found = finished_runs.unpublished_dead(conn, "dead-", 10)
        assert sorted(each.delivery_id for each in found) == ["d0", "d2", "d3"]
        assert len(finished_runs.unpublished_dead(conn, "dead-", 2)) == 2
        letter = found[0]
        assert (letter.event, letter.session_id, letter.error) == ("SESSION_STARTED", "s1", "ValueError: no")
        for each in found:
            assert finished_runs.mark_published(conn, each, f"dead-{each.delivery_id}")
        assert finished_runs.unpublished_dead(conn, "dead-", 10) == []


def test_a_reopened_run_is_not_marked_as_published(ledger, noon):
    ledger.store(ledger.delivery())
    ledger.run("d1", "warn", Outcome.DEAD)
    with ledger.begin() as conn:
        (letter,) = finished_runs.unpublished_dead(conn, "dead-", 10)
        finished_runs.reopen(conn, ["d1"], None, noon)
        assert not finished_runs.mark_published(conn, letter, "dead-d1")
    assert ledger.run_of("d1", "warn").job_id is None
