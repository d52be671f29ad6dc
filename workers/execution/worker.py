"""The process type `worker`: it loads its plugins, joins its installation, and works the queues until it is stopped.

queue -> [worker] -> work horse -> jobs
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from importlib import import_module

import redis
import structlog
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from ingest.backoff import Backoff
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.log import configure_logging
from ingest.queue.installations import Installation
from ingest.queue.leases import report_crash
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.queues import BATCH_JOB, QUEUES
from ingest.queue.redis_client import queue
from ingest.telemetry.tracing import tracing
from workers.execution.job_allowlist import AllowlistedJob
from workers.execution.rq_worker import PreloadedWorker
from workers.execution.worker_heartbeat import WorkerHeartbeat
from workers.execution.worker_pool import WorkerPool
from workers.installation import join_installation
from workers.ledger.database.engine import write_in_bulk
from workers.ledger.database.migrate_plugins import require_plugin_tables
from workers.ledger.warm_up import compile_statements, warm_up
from workers.plugins import Plugins
from workers.push.registry import open_channels
from workers.resources import preload, shared_engine

log = structlog.get_logger()

# An idle worker reports itself when RQ has waited for a job for 15 seconds less than this, and a busy one every
# MONITORING_INTERVAL: a worker that is gone, or a Redis that hangs, is noticed within a minute.
WORKER_TTL = 20
MONITORING_INTERVAL = 5

RESTART = Backoff(first=timedelta(milliseconds=500), longest=timedelta(seconds=5))
LONGEST_REASON = 200


def work(settings: Settings, queues: Sequence[str] = (), *, burst: bool = False) -> None:
    """Work the queues, in the order given or else all of them, until stopped; the current job is finished first.

    All of them are worked by several processes, see `worker_pool`; those that are given, or `burst`, by this one.
    `burst` ends when the queues are empty. Raise SettingsError or PluginError before the first job is taken, also where
    the tables of a plugin are not migrated.
    """
    names = queues or QUEUES
    unknown = [name for name in names if name not in QUEUES]
    if unknown:
        raise SettingsError(f"There is no queue {unknown[0]!r}; there are: {', '.join(QUEUES)}.")
    configure_logging(settings, "work")
    tracing.configure(settings, "work")
    if settings.log_level != "debug":
        # Six lines a job, for what ours logs in one.
        logging.getLogger("rq.worker").setLevel(logging.WARNING)
    import_module(BATCH_JOB.rpartition(".")[0])  # RQ would import it again in every child: 40 ms a job
    _, plugins = preload()
    open_channels(settings, plugins.channels)  # a missing setting is reported now, not with the first job
    settings.require_redis()
    connection, installation = join_installation(settings, shared_engine())
    require_plugin_tables(shared_engine(), plugins.tables)
    prepare_quietly(compile_statements)
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
        worker.prepare = partial(prepare_quietly, partial(open_connections, connection))
        return worker

    presence = WorkerHeartbeat(connection, names, plugins)
    work_until_stopped(make_worker, burst=burst)
    presence.stop()
    log.info("worker.stopped")


def prepare_quietly(prepare: Callable[[Engine], None]) -> None:
    """Prepare the ledger's engine. If that fails, the first job needs the ledger, and waits for it."""
    try:
        prepare(shared_engine())
    except (SQLAlchemyError, redis.RedisError) as failure:
        log.warning("ledger.warm_up_failed", reason=type(failure).__name__)


def open_connections(connection: redis.Redis, engine: Engine) -> None:
    """Open what a work horse needs for its first job. Raise SQLAlchemyError or RedisError."""
    connection.ping()
    write_in_bulk(engine)
    warm_up(engine)


def work_until_stopped(make_worker: Callable[[], PreloadedWorker], *, burst: bool) -> None:
    """Run one worker after another until one is told to stop.

    RQ's worker waits for a Redis that does not answer only where it waits for a job. It ends when one is away at the
    end of a job, or refuses a command for want of memory. Raise RedisError when the first worker cannot be made.
    """
    failures = 0
    worker: PreloadedWorker | None = None
    while True:
        began_at = time.monotonic()
        try:
            worker = make_worker()
            worker.work(burst=burst, logging_level=None)
        except redis.RedisError as error:  # while it is made, registers or unregisters
            if worker is None:
                raise
            log.warning("worker.interrupted", reason=f"{type(error).__name__}: {error}"[:LONGEST_REASON])
        except StopRequested:  # by the handler of the worker before
            return
        if burst or worker.is_stopping:
            return
        failures = 1 if time.monotonic() - began_at > RESTART.longest.total_seconds() else failures + 1
        pause = RESTART.delay(failures).total_seconds()
        log.warning("worker.restarted", after_seconds=round(pause, 1))
        try:
            time.sleep(pause)
        except StopRequested:  # likewise
            return
