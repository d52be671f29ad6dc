"""What a worker reports of itself, and that it has the absence of the clock told."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from ingest.config.settings import load_settings
from ingest.queue import process_monitor, process_registry
from ingest.queue.process_registry import ProcessRecord, ProcessRegistry, ProcessType
from ingest.queue.queues import CLOCK_GONE_JOB, QUEUES
from ingest.queue.redis_client import connect_redis, queue
from ingest.wire.timestamps import utc_now
from tests.workers.conftest import PushNode
from workers.alerts.alerts import AlertKind, AlertRow, find_alerts
from workers.alerts.notifier import notifiers
from workers.execution import clock_alert, worker_heartbeat
from workers.execution.worker_heartbeat import WorkerHeartbeat, changed_plugins, plugin_versions
from workers.ledger import alert_outbox
from workers.plugins import load_plugins


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_registry, "BEAT_EVERY", timedelta())
    monkeypatch.setattr(process_monitor, "START_PATIENCE", timedelta())
    monkeypatch.setattr(process_monitor, "PATIENCE", timedelta())


@pytest.fixture
def heartbeat(valkey: redis.Redis) -> WorkerHeartbeat:
    return WorkerHeartbeat(valkey, QUEUES, load_plugins(load_settings()))


def report(connection: redis.Redis, process: ProcessType) -> None:
    ProcessRegistry(connection).beat(ProcessRecord.of_this_process(process))


def jobs(connection: redis.Redis) -> list[str]:
    return [job.func_name for job in queue("urgent", connection).jobs]


def test_it_reports_the_queues_that_it_serves_until_it_stops(valkey: redis.Redis, heartbeat: WorkerHeartbeat) -> None:
    report(valkey, ProcessType.CLOCK)
    heartbeat.beat()
    (found,) = [each for each in ProcessRegistry(valkey).processes() if each.process is ProcessType.WORK]
    assert (found.queues, found.outdated, found.is_alive, found.pid) == (QUEUES, (), True, os.getpid())
    assert jobs(valkey) == []
    heartbeat.stop()
    assert [each.is_stopped for each in ProcessRegistry(valkey).processes() if each.process is ProcessType.WORK] == [
        True
    ]


def test_the_workers_together_have_a_clock_that_is_gone_told_by_one_job(
    valkey: redis.Redis, heartbeat: WorkerHeartbeat
) -> None:
    with capture_logs() as logs:
        heartbeat.beat()
        heartbeat.beat()
        WorkerHeartbeat(valkey, QUEUES, load_plugins(load_settings())).beat()
    assert jobs(valkey) == [CLOCK_GONE_JOB]
    assert any(line["event"] == "process.gone" and line["gone"] == "clock" for line in logs)


def test_a_worker_works_on_while_redis_is_away_and_logs_that_once(heartbeat: WorkerHeartbeat) -> None:
    with connect_redis("unix:///nowhere") as away, capture_logs() as logs:
        lost = WorkerHeartbeat(away, QUEUES, load_plugins(load_settings()))
        lost.beat()
        lost.beat()
    assert [line["event"] for line in logs] == ["heartbeat.failed"]


def test_a_plugin_that_was_changed_added_or_deleted_is_outdated(
    tmp_path: Path, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {tmp_path / name: 1 for name in ("kept.py", "changed.py", "deleted.py")}
    current = {tmp_path / "kept.py": 1, tmp_path / "changed.py": 2, tmp_path / "deleted.py": 0, tmp_path / "new.py": 1}
    assert changed_plugins(files, current) == ("changed.py", "deleted.py", "new.py")
    heartbeat = WorkerHeartbeat(valkey, QUEUES, load_plugins(load_settings()))
    versions = plugin_versions(load_plugins(load_settings()))
    (warning,) = [path for path in versions if path.name == "fee_warning.py"]
    monkeypatch.setattr(worker_heartbeat, "plugin_versions", lambda _plugins: versions | {warning: 0})
    heartbeat.beat()
    (found,) = ProcessRegistry(valkey).processes()
    assert found.outdated == ("fee_warning.py",)


def alerts(node: PushNode) -> list[AlertRow]:
    with node.resources.engine.begin() as ledger:
        return find_alerts(ledger)


def test_the_job_raises_and_logs_the_alert_once_unless_a_clock_runs_again(
    push_node: object, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = push_node()  # type: ignore[operator]
    monkeypatch.setattr(clock_alert, "open_resources", lambda: node.resources)
    report(valkey, ProcessType.CLOCK)
    clock_alert.raise_clock_gone()
    assert alerts(node) == []
    ProcessRegistry(valkey).stop(ProcessRecord.of_this_process(ProcessType.CLOCK))
    with capture_logs() as logs:
        clock_alert.raise_clock_gone()
        clock_alert.raise_clock_gone()
    (alert,) = alerts(node)
    assert (alert.kind, alert.resolved_at) == (AlertKind.CLOCK_GONE, None)
    assert "webhooks clock" in alert.sentence
    assert alert.logged_at is not None
    assert [line["event"] for line in logs] == ["alert.raised"]


def test_a_worker_without_destinations_leaves_the_alert_to_a_clock_that_may_have_them(
    push_node: object, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = push_node()  # type: ignore[operator]
    monkeypatch.setattr(clock_alert, "open_resources", lambda: node.resources)
    clock_alert.raise_clock_gone()
    (left,) = alerts(node)
    with node.resources.engine.begin() as ledger:
        assert alert_outbox.is_any_due(ledger, utc_now())
    assert (left.logged_at is not None, left.told_at) == (True, None)
    with capture_logs() as logs:
        for each in notifiers(node.resources.engine, load_settings()):  # of a clock without destinations
            each.run()
    (told,) = alerts(node)
    assert told.told_at is not None
    assert logs == []
