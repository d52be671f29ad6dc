"""The clock's sweep: runs whose job is lost or whose worker died are due again."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import event, select
from structlog.testing import capture_logs

from handlers.kit.context import Push
from ingest.config.settings import load_settings
from ingest.errors import QueueUnavailable
from ingest.queue.batch import Delivery, lease_key
from ingest.queue.leases import CRASHED
from ingest.queue.process_registry import ProcessRegistry, ProcessType
from ingest.queue.redis_client import queue
from workers.clock.clock import RELEASED, Clock, background_tasks
from workers.clock.ledger_checkpoint import LedgerCheckpointTask
from workers.execution.dead_letters import publish_dead_letters
from workers.ledger import deliveries, pushes, run_schedule, runs
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.pushes import NewPush
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome, PushState
from workers.ledger.tables import metadata
from workers.ledger.tables.core_tables import runs as runs_table
from workers.plugins import Plugins
from workers.push.registry import open_channels
from workers.resources import Resources

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
GRACE = timedelta(milliseconds=20)


@pytest.fixture
def resources(database_url: str, valkey: redis.Redis, tmp_path: Path) -> Resources:
    engine = create_ledger_engine(database_url, busy_timeout=timedelta(), creates_file=True)
    metadata.create_all(engine)
    settings = load_settings(data_dir=tmp_path, plugsurfing_hmac_current="key", database_url=database_url)
    return Resources(settings, Plugins(()), engine, valkey, open_channels(settings))


def claim(resources: Resources) -> None:
    """Claim a run, as a worker does in the job `job`."""
    arrived = Delivery("d1", "events", None, None, NOON, "current", None, {}, b"{}", 1, "here")
    run = RunRecord(delivery_id="d1", handler="warn", queue="urgent", outcome=Outcome.WAITING, due_at=NOON)
    with resources.engine.begin() as ledger:
        deliveries.store(ledger, [arrived], {"d1": (DeliveryState.RUNNING, None)})
        runs.insert_runs(ledger, [run])
        assert runs.claim(ledger, "warn", [("d1", 1)], "job", NOON)


def sweep_until_recovered(resources: Resources) -> tuple[str, int, str | None, str | None]:
    clock = Clock(resources, grace=GRACE)
    while True:
        clock.sweep()
        with resources.engine.connect() as ledger:
            row = ledger.execute(runs_table.select()).one()
        if row.outcome is not Outcome.RUNNING:
            return row.outcome, row.deaths, row.reason, row.error


def test_a_run_that_its_worker_released_is_due_again_and_counts_no_death(resources: Resources) -> None:
    claim(resources)
    assert sweep_until_recovered(resources) == (Outcome.AGAIN, 0, RELEASED, None)
    with resources.engine.begin() as ledger:
        (run,) = run_schedule.due(ledger, ("urgent", "warn"), datetime.now(UTC), 10)
        assert (run.attempt, run.job_id, run.has_crashed) == (2, None, False)


def test_a_run_whose_worker_died_counts_that_death(resources: Resources) -> None:
    claim(resources)
    resources.connection.set(lease_key("job"), CRASHED)
    with capture_logs() as logs:
        outcome, deaths, _, error = sweep_until_recovered(resources)
    assert (outcome, deaths) == (Outcome.AGAIN, 1)
    assert "died" in str(error)
    (line,) = [line for line in logs if line["event"] == "run.failed"]
    assert (line["handler"], line["delivery"], line["attempt"], line["outcome"]) == ("warn", "d1", 1, "again")


def test_a_run_whose_job_was_lost_is_due_again(resources: Resources) -> None:
    arrived = Delivery("d1", "events", None, None, NOON, "current", None, {}, b"{}", 1, "here")
    run = RunRecord(delivery_id="d1", handler="warn", queue="urgent", outcome=Outcome.WAITING, due_at=NOON)
    with resources.engine.begin() as ledger:
        deliveries.store(ledger, [arrived], {"d1": (DeliveryState.RUNNING, None)})
        runs.insert_runs(ledger, [run])
        ledger.execute(runs_table.update().values(job_id="lost with Redis"))
    clock = Clock(resources, grace=GRACE)
    while True:
        clock.sweep()
        with resources.engine.begin() as ledger:
            due = run_schedule.due(ledger, ("urgent", "warn"), datetime.now(UTC), 10)
        if due:
            break
    assert [(run.delivery_id, run.attempt, run.job_id) for run in due] == [("d1", 1, None)]


def test_a_tick_expires_enqueues_and_publishes(resources: Resources) -> None:
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    names = ("due", "overdue", "dead")
    arrived = [Delivery(name, "events", None, None, NOON, "current", None, {}, b"{}", 1, "here") for name in names]
    parts = {"handler": "warn", "queue": "urgent"}
    new = [
        RunRecord(delivery_id="due", outcome=Outcome.WAITING, due_at=NOON, **parts),
        RunRecord(delivery_id="overdue", outcome=Outcome.WAITING, due_at=NOON, until_at=long_ago, **parts),
        RunRecord(delivery_id="dead", outcome=Outcome.DEAD, error="KeyError", finished_at=NOON, **parts),
    ]
    push = NewPush("due", "warn", "unknown", Push("driver", "Fee", "Soon", collapse_key="fee"), long_ago)
    with resources.engine.begin() as ledger:
        deliveries.store(ledger, arrived, dict.fromkeys(names, (DeliveryState.RUNNING, None)))
        runs.insert_runs(ledger, new)
        pushes.insert(ledger, [push])
    Clock(resources).tick()
    with resources.engine.connect() as ledger:
        outcomes = dict(ledger.execute(select(runs_table.c.delivery_id, runs_table.c.outcome)).all())
        states = [row.state for row in pushes.find(ledger)]
    assert outcomes == {"due": Outcome.WAITING, "overdue": Outcome.MOOT, "dead": Outcome.DEAD}
    assert states == [PushState.DEAD]
    urgent = queue("urgent", resources.connection)
    assert len(urgent) == 1
    assert len(urgent.failed_job_registry) == 1


def test_a_tick_without_work_only_reads(resources: Resources) -> None:
    claim(resources)
    statements: list[str] = []
    event.listen(resources.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    resources.connection.set(lease_key("job"), 1)
    clock = Clock(resources)
    for work in (clock.sweep, lambda: publish_dead_letters(resources)):
        statements.clear()
        work()
        selects = [each for each in statements if each.startswith("SELECT")]
        assert any("FROM runs" in each for each in selects)
        assert not [each for each in statements if each.startswith(("INSERT", "UPDATE", "DELETE"))]


def test_a_redis_that_is_unavailable_is_logged_once_and_the_clock_goes_on(
    resources: Resources, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[int] = []

    def fail(_clock: Clock) -> None:
        ticks.append(1)
        if len(ticks) != 3:
            raise QueueUnavailable("Redis does not answer")

    monkeypatch.setattr(Clock, "sweep", fail)
    stop = threading.Event()
    clock = Clock(resources)
    running = threading.Thread(target=clock.run, args=(stop,), kwargs={"tick": timedelta(milliseconds=5)})
    with capture_logs() as lines:
        running.start()
        until(lambda: len(ticks) > 5)
        stop.set()
        running.join()
    assert [line["reason"] for line in lines if line["event"] == "clock.tick_failed"] == ["Redis does not answer"] * 2


def test_a_clock_reports_itself_while_it_ticks_and_that_it_ends(resources: Resources) -> None:
    registry, stop = ProcessRegistry(resources.connection), threading.Event()
    clock = Clock(resources, grace=GRACE)
    ticking = threading.Thread(target=clock.run, args=(stop,), kwargs={"tick": GRACE})
    ticking.start()
    try:
        while not (found := registry.processes()):
            assert ticking.is_alive()
        assert [(each.process, each.is_alive) for each in found] == [(ProcessType.CLOCK, True)]
    finally:
        stop.set()
        ticking.join()
    assert [each.is_stopped for each in registry.processes()] == [True]


def test_the_log_of_the_ledger_is_looked_after_where_there_is_one(resources: Resources) -> None:
    is_there = any(isinstance(task, LedgerCheckpointTask) for task in background_tasks(resources))
    assert is_there is (resources.engine.dialect.name == "sqlite")
