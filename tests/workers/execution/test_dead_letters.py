"""Dead letters in Redis, of which the newest are shown."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select

from ingest.config.settings import load_settings
from ingest.queue.batch import Delivery
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.redis_client import queue
from workers.execution.dead_letters import LONGEST_TRACEBACK, publish_dead_letters, trim_failed_jobs
from workers.ledger import deliveries, runs
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.core_tables import runs as run_table
from workers.plugins import Plugins
from workers.resources import Resources

NOW = datetime(2026, 5, 4, 10, 0, tzinfo=UTC)


@pytest.fixture
def resources(valkey: NamespacedRedis, tmp_path: Path) -> Resources:
    settings = load_settings(data_dir=tmp_path, failed_jobs_shown=5)
    engine = create_ledger_engine(settings.database_url, creates_file=True)
    metadata.create_all(engine)
    return Resources(settings, Plugins(()), engine, valkey, {})


def die(resources: Resources, count: int) -> None:
    """Insert dead runs with long tracebacks."""
    ids = [f"{number:032x}" for number in range(count)]
    with resources.engine.begin() as ledger:
        for each in ids:
            one = Delivery(each, "events", None, None, NOW, "current", None, {}, b"{}", 1, "inbox")
            deliveries.store(ledger, [one], {each: (DeliveryState.RUNNING, None)})
        dead = [
            RunRecord(
                delivery_id=each,
                handler="broken",
                outcome=Outcome.DEAD,
                attempts=1,
                finished_at=NOW,
                traceback="x" * 3 * LONGEST_TRACEBACK,
            )
            for each in ids
        ]
        runs.insert_runs(ledger, dead, "sessions")


def test_redis_keeps_the_newest_dead_letters_and_the_ledger_all(resources: Resources, valkey: NamespacedRedis) -> None:
    die(resources, 210)
    while publish_dead_letters(resources):
        pass
    shown = queue("sessions", valkey).failed_job_registry
    assert shown.count == 5
    assert len(valkey.keys("rq:job:*")) == len(valkey.keys("rq:results:*")) == 5
    (shown_id, *_) = shown.get_job_ids()
    job = queue("sessions", valkey).fetch_job(shown_id)
    assert len(job.latest_result().exc_string) == LONGEST_TRACEBACK
    with resources.engine.begin() as ledger:
        assert ledger.scalar(select(func.count()).where(run_table.c.outcome == Outcome.DEAD)) == 210


def test_jobs_that_failed_of_something_else_are_trimmed_too(resources: Resources, valkey: NamespacedRedis) -> None:
    registry = queue("urgent", valkey).failed_job_registry
    for number in range(8):
        valkey.hset(f"rq:job:{number}", "data", "")
        valkey.zadd(registry.key, {str(number): number})
    trim_failed_jobs(resources)
    assert valkey.zrange(registry.key, 0, -1) == [b"3", b"4", b"5", b"6", b"7"]
    assert sorted(valkey.keys("rq:job:*")) == [f"rq:job:{number}".encode() for number in range(3, 8)]


def test_trimming_needs_no_memory(resources: Resources, valkey: NamespacedRedis) -> None:
    registry = queue("urgent", valkey).failed_job_registry
    valkey.zadd(registry.key, {str(number): number for number in range(8)})
    valkey.config_set("maxmemory", 1)
    try:
        trim_failed_jobs(resources)
    finally:
        valkey.config_set("maxmemory", 0)
    assert valkey.zcard(registry.key) == 5
