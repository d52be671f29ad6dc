"""The process type `worker`: an RQ worker that loads its plugins before it forks.

queue -> [worker] -> jobs
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from importlib import import_module

import redis
import structlog
from redis.client import Pipeline
from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy.exc import SQLAlchemyError

from ingest.backoff import Backoff
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.failpoints import Failpoint, hit
from ingest.log import configure_logging
from ingest.queue.installations import Installation
from ingest.queue.leases import report_crash
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.queues import BATCH_JOB, QUEUES
from ingest.queue.redis_client import queue
from workers.execution.job_allowlist import AllowlistedJob
from workers.execution.worker_heartbeat import WorkerHeartbeat
from workers.execution.worker_pool import WorkerPool
from workers.installation import announce_quietly, join_installation
from workers.ledger.warm_up import warm_up
from workers.plugins import Plugins
from workers.push.registry import open_channels
from workers.resilience.hard_timeout import kill_on_timeout
from workers.resources import preload, shared_engine

log = structlog.get_logger()

# An idle worker reports itself when RQ has waited for a job for 15 seconds less than this, and a busy one every
# MONITORING_INTERVAL: a worker that is gone, or a Redis that hangs, is noticed within a minute.
WORKER_TTL = 20
MONITORING_INTERVAL = 5


# Seconds; RQ renews a registration with every job, and every 10 seconds while there is none.
ANNOUNCE_EVERY = 5
RESTART = Backoff(first=timedelta(milliseconds=500), longest=timedelta(seconds=5))
LONGEST_REASON = 200


class PreloadedWorker(Worker):
    """An RQ worker whose children find everything imported already."""

    log_result_lifespan = False
    presence: WorkerHeartbeat | None = None
    """Reports the worker to the other processes, beside RQ's own registry."""
    installation: Installation | None = None
    _announced_at = float("-inf")
    is_stopping = False
    """Whether the process was told to end; the loop of RQ also ends when Redis refuses a command."""

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Renew RQ's registration of the worker and our own, and announce its installation."""
        super().heartbeat(timeout, pipeline)
        if self.presence is not None and not self.is_horse:
            self.presence.beat()
        is_due = time.monotonic() > self._announced_at + ANNOUNCE_EVERY and not self.is_horse
        if is_due and self.installation is not None and isinstance(self.connection, NamespacedRedis):
            self._announced_at = time.monotonic()
            announce_quietly(self.connection, self.installation)

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

    def handle_warm_shutdown_request(self) -> None:
        """Remember that the process is to end."""
        self.is_stopping = True
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]

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

    All of them are worked by several processes, see `worker_pool`; those that are given, or `burst`, by this one.
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
    settings.require_redis()
    connection, installation = join_installation(settings, shared_engine())
    try:
        warm_up(shared_engine())
    except SQLAlchemyError as failure:
        # The first job needs the ledger, and waits for it.
        log.warning("ledger.warm_up_failed", reason=type(failure).__name__)
    run = partial(work_queues, connection, installation, plugins)
    if queues or burst:
        run(names, burst=burst)
    else:
        WorkerPool(run).run()


def work_queues(
    connection: NamespacedRedis,
    installation: Installation,
    plugins: Plugins,
    names: Sequence[str],
    *,
    burst: bool = False,
) -> None:
    """Work these queues in this process, one job at a time, until stopped."""
    handlers = [each.name for each in plugins.subscriptions]
    log.info("worker.started", queues=list(names), namespace=connection.namespace, handlers=handlers)
    served = [queue(name, connection) for name in names]

    def make_worker() -> PreloadedWorker:
        worker = PreloadedWorker(
            served,
            connection=connection,
            serializer=JSONSerializer,
            job_class=AllowlistedJob,
            worker_ttl=WORKER_TTL,
            job_monitoring_interval=MONITORING_INTERVAL,
            work_horse_killed_handler=lambda job, *_ending: report_crash(connection, job.id),
        )
        worker.presence, worker.installation = presence, installation
        return worker

    presence = WorkerHeartbeat(connection, names, plugins)
    work_until_stopped(make_worker, burst=burst)
    presence.stop()
    log.info("worker.stopped")


def work_until_stopped(make_worker: Callable[[], PreloadedWorker], *, burst: bool) -> None:
    """Run one worker after another until one is told to stop.

    RQ's worker waits only for a Redis that does not answer, and ends when it refuses a command for want of memory.
    """
    failures = 0
    while True:
        worker, began_at = make_worker(), time.monotonic()
        try:
            worker.work(burst=burst, logging_level=None)
        except redis.RedisError as error:  # while it registers or unregisters
            log.warning("worker.interrupted", reason=f"{type(error).__name__}: {error}"[:LONGEST_REASON])
        if burst or worker.is_stopping:
            return
        failures = 1 if time.monotonic() - began_at > RESTART.longest.total_seconds() else failures + 1
        pause = RESTART.delay(failures).total_seconds()
        log.warning("worker.restarted", after_seconds=round(pause, 1))
        try:
            time.sleep(pause)
        except StopRequested:  # by the handler of the worker that has ended
            return
