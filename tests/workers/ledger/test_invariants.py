"""Violations of the ledger's invariants are found, and valid rows are not."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update

from workers.ledger.invariants import ROLLOUT, check_invariants, missed_handlers
from workers.ledger.states import WHOLE_DELIVERY, BodyDeletion, DeliveryState, Outcome
from workers.ledger.tables.core_tables import deliveries, pushes, runs


def found(ledger: Any) -> dict[str, tuple[int, tuple[str, ...]]]:
    with ledger.engine.connect() as conn:
        return {each.rule: (each.count, each.examples) for each in check_invariants(conn)}


def change(ledger: Any, statement: Any) -> None:
    with ledger.begin() as conn:
        conn.execute(statement)


@pytest.fixture
def full(ledger: Any, noon: Any) -> Any:
    """A ledger with a delivery in every state."""
    for name, outcome in (("done", Outcome.DONE), ("dead", Outcome.DEAD), ("moot", Outcome.MOOT)):
        ledger.store(ledger.delivery(name))
        ledger.run(name, "warn", outcome, started_at=noon, finished_at=noon)
    ledger.store(ledger.delivery("again"))
    ledger.run("again", "warn", Outcome.AGAIN, due_at=noon, finished_at=noon)
    ledger.store(ledger.delivery("unread"), state=DeliveryState.UNREADABLE)
    ledger.store(ledger.delivery("fresh"))
    return ledger


def test_a_ledger_with_everything_in_it_breaks_no_rule(full: Any) -> None:
    assert found(full) == {}


@pytest.mark.parametrize(
    ("statement", "rule", "example"),
    [
        (
            update(deliveries).where(deliveries.c.id == "fresh").values(state=DeliveryState.SETTLED),
            "an outcome",
            "fresh",
        ),
        (update(deliveries).where(deliveries.c.id == "done").values(state=DeliveryState.RUNNING), "at work", "done"),
        (update(deliveries).where(deliveries.c.id == "done").values(state=DeliveryState.DEAD), "a dead run", "done"),
        (update(deliveries).where(deliveries.c.id == "dead").values(state=DeliveryState.SETTLED), "no dead", "dead"),
        (update(deliveries).where(deliveries.c.id == "again").values(state=DeliveryState.SETTLED), "no open", "again"),
        (update(deliveries).where(deliveries.c.id == "done").values(state=DeliveryState.RETRYING), "retried", "done"),
        (update(runs).where(runs.c.delivery_id == "done").values(error="once"), "not given up", "done warn"),
        (update(runs).where(runs.c.delivery_id == "done").values(waits_for="s1"), "waits for nothing", "done warn"),
        (update(runs).where(runs.c.delivery_id == "done").values(outcome="running"), "has a job", "done warn"),
        (update(runs).where(runs.c.delivery_id == "moot").values(delivery_id="gone"), "to a delivery", "gone warn"),
    ],
)
def test_a_violation_is_listed_with_an_example(full: Any, statement: Any, rule: str, example: str) -> None:
    change(full, statement)
    broken = {name: examples for name, (_, examples) in found(full).items() if rule in name}
    assert list(broken.values()) == [(example,)], found(full)


def test_a_push_without_a_run_and_one_sent_without_an_attempt_are_violations(full: Any, noon: Any) -> None:
    row = {
        "id": "p1", "delivery_id": "done", "handler": "nobody", "user_id": "driver", "channel": "log", "state": "sent",
        "title": "", "body": "", "payload": {}, "collapse_key": "", "created_at": noon, "attempts": 0,
    }  # fmt: skip
    change(full, insert(pushes).values(row))
    assert found(full) == {
        "a push belongs to a run": (1, ("p1",)),
        "a push that was sent has a time of that": (1, ("p1",)),
    }


def test_many_violations_are_counted_and_a_few_are_listed(full: Any, ledger: Any) -> None:
    for number in range(10):
        ledger.store(ledger.delivery(f"bare{number}"))
    change(full, update(deliveries).where(deliveries.c.id.like("bare%")).values(state="settled"))
    counts = {rule: (count, len(examples)) for rule, (count, examples) in found(full).items()}
    assert counts["a settled delivery has an outcome"] == (10, 3)


def test_a_settled_delivery_that_a_known_handler_missed_is_found(full: Any, ledger: Any, noon: Any) -> None:
    wanted = {"warn": ["SESSION_STARTED"], "new": ["SESSION_STARTED"], "other": ["SESSION_STOPPED"]}
    with ledger.engine.connect() as conn:
        assert list(missed_handlers(conn, wanted)) == []
    ledger.store(ledger.delivery("passed"))
    ledger.run("passed", "new", Outcome.DONE, started_at=noon + timedelta(days=9000), finished_at=noon)
    change(ledger, update(deliveries).values(stored_at=noon))
    change(ledger, update(deliveries).where(deliveries.c.id == "passed").values(stored_at=noon + 2 * ROLLOUT))
    with ledger.engine.connect() as conn:
        (found_out,) = missed_handlers(conn, wanted)
    assert (found_out.count, found_out.examples) == (1, ("passed",))


def test_a_dead_run_of_another_handler_hides_no_missed_one_and_poison_is_not_missed(ledger: Any, noon: Any) -> None:
    for name, handler in (("began", "new"), ("masked", "other"), ("poison", WHOLE_DELIVERY)):
        ledger.store(ledger.delivery(name))
        outcome = Outcome.DONE if name == "began" else Outcome.DEAD
        ledger.run(name, handler, outcome, started_at=noon, finished_at=noon)
    change(ledger, update(deliveries).values(stored_at=noon + 2 * ROLLOUT))
    with ledger.engine.connect() as conn:
        (found_out,) = missed_handlers(conn, {"new": ["SESSION_STARTED"]})
    assert (found_out.count, found_out.examples) == (1, ("masked",))


def test_deliveries_stored_during_a_rollout_are_not_missed(ledger: Any, noon: Any) -> None:
    ledger.store(ledger.delivery("began"), ledger.delivery("passed"))
    ledger.run("began", "new", Outcome.DONE, started_at=noon, finished_at=noon)
    ledger.run("passed", "other", Outcome.DONE, started_at=noon, finished_at=noon)
    change(ledger, update(deliveries).values(stored_at=noon + ROLLOUT / 2))
    wanted = {"new": ["SESSION_STARTED"]}
    with ledger.engine.connect() as conn:
        assert list(missed_handlers(conn, wanted)) == []
        (found_out,) = missed_handlers(conn, wanted, rollout=timedelta())
    assert found_out.examples == ("passed",)


def test_what_came_late_of_an_erased_session_was_missed_by_no_handler(ledger: Any, noon: Any) -> None:
    ledger.store(ledger.delivery("began"), ledger.delivery("late"))
    ledger.run("began", "new", Outcome.DONE, started_at=noon, finished_at=noon)
    ledger.run("late", WHOLE_DELIVERY, Outcome.IGNORED, finished_at=noon)
    change(ledger, update(deliveries).values(stored_at=noon + 2 * ROLLOUT))
    erased = {"body": b"", "body_deleted_at": noon, "body_deletion": BodyDeletion.ERASURE}
    change(ledger, update(deliveries).where(deliveries.c.id == "late").values(erased))
    with ledger.engine.connect() as conn:
        assert list(missed_handlers(conn, {"new": ["SESSION_STARTED"]})) == []
