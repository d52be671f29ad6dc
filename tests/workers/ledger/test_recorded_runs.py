"""Runs without a row are runs: every reader knows them, and a replay makes rows of them."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from workers.ledger import deliveries, finished_runs, recorded_runs
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.invariants import ROLLOUT, check_invariants, missed_handlers
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.stats_queries import read_stats
from workers.ledger.tables.core_tables import deliveries as delivery_table
from workers.ledger.tables.core_tables import runs

HOUR = timedelta(hours=1)


@pytest.fixture
def recorded(ledger, noon):
    """A ledger with a settled delivery that has two runs without a row, and one with a row."""
    with ledger.begin() as conn:
        settled = {"d1": (DeliveryState.SETTLED, None)}
        deliveries.store(conn, [ledger.delivery()], settled, {"d1": recorded_runs.join_names(["tariff_of", "zone"])})
    ledger.run("d1", "thank", Outcome.DONE, finished_at=noon)
    return ledger


def rows(conn):
    return set(conn.execute(select(runs.c.handler, runs.c.outcome)))


def test_a_delivery_is_shown_with_all_its_runs(recorded):
    shown = recorded.show("d1")
    assert [(run.handler, run.outcome, run.attempts) for run in shown.runs] == [
        ("tariff_of", Outcome.DONE, 1),
        ("thank", Outcome.DONE, 1),
        ("zone", Outcome.DONE, 1),
    ]
    assert shown.runs[0].finished_at == shown.stored_at
    with recorded.begin() as conn:
        assert rows(conn) == {("thank", Outcome.DONE)}
        assert recorded_runs.existing(conn, ["d1"]) == {("d1", "tariff_of"), ("d1", "thank"), ("d1", "zone")}


@pytest.mark.parametrize(
    ("handler", "outcome", "is_found"),
    [
        ("tariff_of", None, True),
        ("tariff_of", Outcome.DONE, True),
        ("tariff_of", Outcome.MOOT, False),
        ("tariffXof", None, False),  # `_` is any character for LIKE
        ("tariff", None, False),
        ("thank", None, True),
        (None, Outcome.DONE, True),
    ],
)
def test_a_delivery_is_found_by_a_run_without_a_row(recorded, handler, outcome, is_found):
    filters = DeliveryFilters(handler=handler, outcome=outcome)
    with recorded.begin() as conn:
        assert bool(deliveries.find(conn, filters, 5)) is is_found


def test_runs_without_a_row_are_counted(recorded, noon):
    with recorded.begin() as conn:
        counts = read_stats(conn, noon, noon + HOUR).runs
    assert counts == {name: {"done": 1} for name in ("tariff_of", "thank", "zone")}


def test_a_delivery_whose_runs_have_no_row_breaks_no_rule_and_others_are_compared_with_it(recorded, noon):
    with recorded.begin() as conn:
        conn.execute(runs.delete())
        assert list(check_invariants(conn)) == []
        conn.execute(update(delivery_table).values(stored_at=noon))
        passed = recorded.delivery("passed")
        deliveries.store(conn, [passed], {"passed": (DeliveryState.SETTLED, None)}, {"passed": "zone"})
        later = update(delivery_table).where(delivery_table.c.id == "passed").values(stored_at=noon + 2 * ROLLOUT)
        conn.execute(later)
        (missed,) = missed_handlers(conn, {"tariff_of": ["SESSION_STARTED"], "zone": ["SESSION_STARTED"]})
        assert (missed.rule.split()[0], missed.examples) == ("tariff_of", ("passed",))


def test_a_replay_makes_rows_of_them(recorded, noon):
    with recorded.begin() as conn:
        assert finished_runs.reopen(conn, ["d1"], "zone", noon, [Outcome.DEAD]) == 0
        assert finished_runs.reopen(conn, ["d1"], "zone", noon, [Outcome.DONE]) == 1
        done = {("tariff_of", Outcome.DONE), ("thank", Outcome.DONE)}
        assert rows(conn) == {*done, ("zone", Outcome.WAITING)}
        assert conn.scalar(select(func.count()).where(delivery_table.c.recorded_by.is_not(None))) == 0
    assert [run.handler for run in recorded.show("d1").runs] == ["tariff_of", "thank", "zone"]
    assert recorded.state_of("d1") is DeliveryState.RETRYING
