"""The process type `worker`: an RQ worker that loads its plugins before it forks.

queue -> [worker] -> jobs
"""

import logging
from collections.abc import Sequence
from importlib import import_module

import redis
import stamina
import structlog
from redis.client import Pipeline
from rq import Queue, Worker
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy.exc import SQLAlchemyError

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.failpoints import Failpoint, hit
from ingest.log import configure_logging
from ingest.queue.leases import report_crash
from ingest.queue.queues import BATCH_JOB, QUEUES, connect_redis, queue
from workers.execution.job_allowlist import AllowlistedJob
from workers.execution.worker_heartbeat import WorkerHeartbeat
from workers.ledger.warm_up import warm_up
from workers.push.registry import open_channels
from workers.resilience.hard_timeout import kill_on_timeout
from workers.resources import preload, shared_engine

log = structlog.get_logger()

# An idle worker reports itself when RQ has waited for a job for 15 seconds less than this, and a busy one every
# MONITORING_INTERVAL: a worker that is gone, or a Redis that hangs, is noticed within a minute.
WORKER_TTL = 20
MONITORING_INTERVAL = 5


class PreloadedWorker(Worker):
    """An RQ worker whose children find everything imported already."""

    log_result_lifespan = False
    presence: WorkerHeartbeat | None = None
    """Reports the worker to the other processes, beside RQ's own registry."""

    def reorder_queues(self, reference_queue: Queue) -> None:
        """Serve the first queue before all others, but not twice in a row while they have jobs; these take turns.

        In strict order, a trickle of urgent jobs that keeps a worker busy would starve the other queues.
        """
        if reference_queue == self.queues[0]:
            self._ordered_queues = [*self._round_robin(), self.queues[0]]
        else:
            others = [each for each in self._round_robin() if each != reference_queue]
            self._ordered_queues = [self.queues[0], *others, reference_queue]

    def _round_robin(self) -> list[Queue]:
        return [each for each in self._ordered_queues if each != self.queues[0]]

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Renew RQ's registration of the worker, and our own."""
        super().heartbeat(timeout, pipeline)
        if self.presence is not None and not self.is_horse:
            self.presence.beat()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Do the job in a child process, and wait for it."""
        hit(Failpoint.TAKEN)
        super().execute_job(job, queue)

    def monitor_work_horse(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Wait for the child, and kill it if its handler does not stop in time."""
        with kill_on_timeout(self.kill_horse):
            super().monitor_work_horse(job, queue, execution)


def work(settings: Settings, queues: Sequence[str] = (), *, burst: bool = False) -> None:
    """Work the queues, in the order given or else all of them, until stopped; the current job is finished first.

    `burst` ends when the queues are empty. Raise SettingsError or PluginError before the first job is taken.
    """
    names = queues or QUEUES
    unknown = [name for name in names if name not in QUEUES]
    if unknown:
        raise SettingsError(f"There is no queue {unknown[0]!r}; there are: {', '.join(QUEUES)}.")
    configure_logging(settings, "work")
    if settings.log_level != "debug":
        # Six lines a job, for what ours logs in one.
        logging.getLogger("rq.worker").setLevel(logging.WARNING)
    import_module(BATCH_JOB.rpartition(".")[0])  # RQ would import it again in every child: 40 ms a job
    _, plugins = preload()
    open_channels(settings, plugins.channels)  # a missing setting is reported now, not with the first job
    try:
        warm_up(shared_engine())
    except SQLAlchemyError as failure:
        # The first job needs the ledger, and waits for it.
        log.warning("ledger.warm_up_failed", reason=type(failure).__name__)
    connection = connect_redis(settings.require_redis())
    wait_for_redis(connection)
    log.info("worker.started", queues=list(names), handlers=[each.name for each in plugins.subscriptions])
    served = [queue(name, connection) for name in names]
    worker = PreloadedWorker(
        served,
        connection=connection,
        serializer=JSONSerializer,
        job_class=AllowlistedJob,
        worker_ttl=WORKER_TTL,
        job_monitoring_interval=MONITORING_INTERVAL,
        work_horse_killed_handler=lambda job, *_ending: report_crash(connection, job.id),
    )
    worker.presence = WorkerHeartbeat(connection, names, plugins)
    worker.work(burst=burst, logging_level=None)
    worker.presence.stop()
    log.info("worker.stopped")


def wait_for_redis(connection: redis.Redis) -> None:
    """Return when Redis answers: whatever started this process might not restart it."""
    for attempt in stamina.retry_context(on=redis.RedisError, attempts=None, timeout=None, wait_max=5):
        with attempt:
            connection.ping()
