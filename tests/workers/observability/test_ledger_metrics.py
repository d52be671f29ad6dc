"""The numbers of the ledger are true, bounded, and say when they are unknown."""

from datetime import timedelta

import pytest

from handlers.kit.context import Push
from workers.alerts.alerts import Alert, AlertKind, raise_alert
from workers.ledger import pushes, runs
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.pushes import NewPush
from workers.ledger.runs import RunRecord
from workers.ledger.states import Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.core_tables import deliveries
from workers.observability import ledger_metrics
from workers.observability.ledger_metrics import LedgerCollector, Waiting, format_state, read_state


@pytest.fixture
def engine(database_url, noon):
    """A ledger with a delivery that is running and one that is retrying, and what a person should look at."""
    engine = create_ledger_engine(database_url, creates_file=True)
    metadata.create_all(engine)
    row = {"kind": "events", "signed_with": "current", "headers": {}, "body": b"", "inbox": "here", "stored_at": noon}
    states = {"d1": "running", "d2": "retrying", "d3": "settled", "d4": "retrying"}
    with engine.begin() as ledger:
        for minutes, (name, state) in enumerate(states.items()):
            at = noon - timedelta(minutes=minutes)
            ledger.execute(deliveries.insert().values(row | {"id": name, "state": state, "received_at": at}))
        runs.insert_runs(
            ledger,
            [
                RunRecord(delivery_id="d1", handler="warn", outcome=Outcome.RUNNING, attempts=1),
                RunRecord(
                    delivery_id="d2", handler="warn", outcome=Outcome.WAITING, due_at=noon - timedelta(seconds=9)
                ),
                RunRecord(delivery_id="d4", handler="warn", outcome=Outcome.AGAIN, due_at=noon + timedelta(hours=1)),
                RunRecord(delivery_id="d3", handler="warn", outcome=Outcome.DEAD, finished_at=noon),
                RunRecord(delivery_id="d3", handler="note", outcome=Outcome.DEAD, finished_at=noon),
                RunRecord(delivery_id="d4", handler="note", outcome=Outcome.DEAD, finished_at=noon),
            ],
            "urgent",
        )
        for number in range(3):
            push = Push(f"driver-{number}", "t", "b", f"k{number}")
            pushes.insert(ledger, [NewPush("d1", "warn", "fcm", push, noon - timedelta(seconds=number))])
        raise_alert(ledger, Alert(AlertKind.SILENCE, "all", "Nothing comes."), noon)
    yield engine
    engine.dispose()


def test_the_numbers_are_those_of_the_ledger(engine, noon):
    with engine.begin() as ledger:
        state = read_state(ledger, noon)
    assert state.unsettled == {"running": Waiting(1, noon), "retrying": Waiting(2, noon - timedelta(minutes=3))}
    assert state.due_runs == {"urgent": Waiting(1, noon - timedelta(seconds=9))}
    assert state.waiting_pushes == {"fcm": Waiting(3, noon - timedelta(seconds=2))}
    assert state.dead_letters == {"warn": 1, "note": 2}
    assert state.open_alerts == {"silence": Waiting(1, noon)}


def test_counts_are_bounded(engine, noon, monkeypatch):
    monkeypatch.setattr(ledger_metrics, "MAX_COUNTED", 1)
    with engine.begin() as ledger:
        state = read_state(ledger, noon)
    assert state.unsettled["retrying"] == Waiting(1, noon - timedelta(minutes=3))
    assert state.waiting_pushes["fcm"].count == 1
    assert state.dead_letters == {"warn": 1, "note": 1}


def test_prometheus_reads_ages_and_a_zero_for_each_kind_of_alert_that_is_not_open(engine, samples):
    numbers = samples(LedgerCollector(engine))
    assert numbers["webhooks_ledger_up",] == 1
    assert numbers["webhooks_deliveries_waiting", "retrying"] == 2
    assert numbers["webhooks_pushes_oldest_waiting_seconds", "fcm"] > 60
    assert numbers["webhooks_dead_letters", "note"] == 2
    assert {kind: numbers["webhooks_alerts_open", kind] for kind in AlertKind} == {
        kind: kind is AlertKind.SILENCE for kind in AlertKind
    }


def test_a_ledger_that_cannot_be_read_has_no_numbers(tmp_path, samples):
    engine = create_ledger_engine(f"sqlite:///{tmp_path}/missing/ledger.db")
    assert samples(LedgerCollector(engine)) == {("webhooks_ledger_up",): 0}


def test_every_metric_has_a_name_and_a_documentation_while_nothing_is_known(noon):
    names = {metric.name for metric in format_state(None, noon)}
    assert {"webhooks_deliveries_waiting", "webhooks_dead_letters", "webhooks_alerts_open"} < names
