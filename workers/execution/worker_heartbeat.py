"""The heartbeat of a worker: it reports which queues it serves and which plugins have changed, and misses the clock."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import redis
import structlog
from rq import Queue

from ingest.errors import QueueUnavailable
from ingest.queue.process_monitor import ALL, ProcessMonitor
from ingest.queue.process_registry import ProcessRecord, ProcessRegistry, ProcessType
from ingest.queue.queues import CLOCK_GONE_JOB
from ingest.queue.redis_client import queue
from workers.plugins import Plugins

log = structlog.get_logger()

JOB_EVERY = timedelta(seconds=15)
"""How often the absence of the clock is told, by all workers together."""
JOB_TIMEOUT = timedelta(minutes=2)
JOB_LOCK = "webhooks:clock-gone"


class WorkerHeartbeat:
    """Reports one worker; for its main thread. Raises nothing."""

    def __init__(self, connection: redis.Redis, queues: Sequence[str], plugins: Plugins) -> None:
        self._connection = connection
        self._registry = ProcessRegistry(connection)
        self._monitor = ProcessMonitor()
        record = ProcessRecord.of_this_process(ProcessType.WORK, queues=queues)
        self._record = replace(record, handlers=tuple(each.name for each in plugins.subscriptions))
        self._plugins = plugins
        self._loaded = plugin_versions(plugins)
        self._problem: str | None = None

    def beat(self) -> None:
        """Report the worker if it is time. While no clock runs, let a job raise the alert: it may use the ledger."""
        if not self._registry.is_due:
            return
        outdated = changed_plugins(self._loaded, plugin_versions(self._plugins))
        try:
            gone = self._monitor.update(self._registry.beat(replace(self._record, outdated=outdated)))
            self._monitor.log_changes(gone)
            if any(each.process is ProcessType.CLOCK and each.subject == ALL for each in gone):
                self._enqueue_alert()
        except (QueueUnavailable, redis.RedisError) as error:
            self._monitor.reset()
            problem = str(error) if isinstance(error, QueueUnavailable) else type(error).__name__
            if problem != self._problem:
                log.warning("heartbeat.failed", reason=problem)
            self._problem = problem
        else:
            self._problem = None

    def stop(self) -> None:
        """Report that the worker ends."""
        self._registry.stop(self._record)

    def _enqueue_alert(self) -> None:
        if not self._connection.set(JOB_LOCK, self._record.id, nx=True, ex=JOB_EVERY):
            return  # another worker does it
        target = queue(self._record.queues[0], self._connection)
        job = Queue.prepare_data(
            CLOCK_GONE_JOB,
            description="the clock is gone: alert",
            timeout=int(JOB_TIMEOUT.total_seconds()),
            result_ttl=0,
            failure_ttl=int(JOB_TIMEOUT.total_seconds()),
        )
        target.enqueue_many([job])


def plugin_versions(plugins: Plugins) -> dict[Path, int]:
    """Return when each file of the plugins was changed last, and each file that is beside those of a package."""
    marked = (*plugins.subscriptions, *plugins.idle, *plugins.channels, *plugins.policies)
    files = {Path(each.file) for each in marked}
    packages = {path.parent for path in files if (path.parent / "__init__.py").exists()}
    files |= {path for package in packages for path in package.glob("[!_]*.py")}
    return {path: _changed_at(path) for path in files}


def changed_plugins(loaded: Mapping[Path, int], current: Mapping[Path, int]) -> tuple[str, ...]:
    """Return the names of the files that are not as they were loaded: changed, new or deleted."""
    return tuple(
        sorted({path.name for path in loaded.keys() | current.keys() if loaded.get(path) != current.get(path)})
    )


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
