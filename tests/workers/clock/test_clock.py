"""The clock's sweep: what becomes of runs whose job is over without a word."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from ingest.config.settings import load_settings
from ingest.queue.batch import Delivery, lease_key
from ingest.queue.leases import CRASHED
from workers.clock.clock import HANDED_BACK, Clock
from workers.execution.dead_letters import publish_dead_letters
from workers.ledger import deliveries, run_schedule, runs
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.runs import NewRun
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.core import runs as runs_table
from workers.plugins import Plugins
from workers.push.registry import open_channels
from workers.resources import Resources

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
GRACE = timedelta(milliseconds=20)


@pytest.fixture
def equipment(database_url: str, valkey: redis.Redis, tmp_path: Path) -> Resources:
    engine = create_ledger_engine(database_url, patience=timedelta())
    metadata.create_all(engine)
    settings = load_settings(data_dir=tmp_path, plugsurfing_hmac_current="key", database_url=database_url)
    return Resources(settings, Plugins(()), engine, valkey, open_channels(settings))


def claim(equipment: Resources) -> None:
    """Have a worker claim a run, in the job `job`."""
    arrived = Delivery("d1", "events", None, None, NOON, "current", None, {}, b"{}", 1, "here")
    run = NewRun(delivery_id="d1", handler="warn", queue="urgent", outcome=Outcome.WAITING, due_at=NOON)
    with equipment.engine.begin() as ledger:
        deliveries.store(ledger, [arrived], {"d1": (DeliveryState.RUNNING, None)})
        runs.insert_runs(ledger, [run])
        assert runs.claim(ledger, "warn", [("d1", 1)], "job", NOON)


def sweep_until_given_up(equipment: Resources) -> tuple[str, int, str | None, str | None]:
    clock = Clock(equipment, grace=GRACE)
    while True:
        clock.sweep()
        with equipment.engine.connect() as ledger:
            row = ledger.execute(runs_table.select()).one()
        if row.outcome is not Outcome.RUNNING:
            return row.outcome, row.deaths, row.reason, row.error


def test_a_run_that_its_worker_handed_back_is_due_again_and_nobodys_death(equipment: Resources) -> None:
    claim(equipment)
    assert sweep_until_given_up(equipment) == (Outcome.AGAIN, 0, HANDED_BACK, None)
    with equipment.engine.begin() as ledger:
        (run,) = run_schedule.due(ledger, datetime.now(UTC), 10)
        assert (run.attempt, run.job_id, run.has_failed) == (2, None, False)


def test_a_run_whose_worker_died_counts_that_death(equipment: Resources) -> None:
    claim(equipment)
    equipment.connection.set(lease_key("job"), CRASHED)
    outcome, deaths, _, error = sweep_until_given_up(equipment)
    assert (outcome, deaths) == (Outcome.AGAIN, 1)
    assert "died" in str(error)


def test_a_clock_that_finds_nothing_to_do_waits_for_nobody_who_writes(equipment: Resources) -> None:
    with equipment.engine.begin() as ledger:
        ledger.execute(runs_table.delete())
        Clock(equipment).sweep()
        publish_dead_letters(equipment)
