"""The process type `clock`: what must happen although nothing arrives.

The relay redelivers a delivery until the inbox has its acknowledgement; after that, this sweep recovers its runs.
"""

import contextlib
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Connection

from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable
from ingest.log import configure_logging
from ingest.queue.installations import Installation
from ingest.queue.leases import LEASE_TIMEOUT, JobState, LeaseMonitor
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.process_registry import ProcessRecord, ProcessRegistry, ProcessType
from ingest.telemetry.tracing import tracing
from workers.alerts.alert_evaluator import AlertEvaluator
from workers.alerts.notifier import notifiers
from workers.clock.clock_rollback import ClockRollback
from workers.clock.ledger_checkpoint import LedgerCheckpointTask
from workers.clock.push_sender import SenderPool
from workers.execution.dead_letters import publish_dead_letters, trim_failed_jobs
from workers.execution.enqueue import enqueue_due_runs
from workers.installation import announce_quietly, join_installation
from workers.ledger import pushes, run_schedule
from workers.ledger.database.migrate_plugins import require_plugin_tables
from workers.ledger.database.transaction import LedgerUnavailable, read_once, run_in_transaction
from workers.ledger.run_schedule import OpenRun
from workers.ledger.runs import RunKey
from workers.ledger.states import Outcome
from workers.observability import work_metrics
from workers.observability.metrics_server import MetricsServer, create_metrics_app, installation_registry
from workers.policies.sync import sync_tasks
from workers.privacy.late_erasure import LateErasureTask
from workers.privacy.retention import RetentionTask
from workers.reconciliation.tasks import reconciliation_tasks
from workers.resilience.periodic import PeriodicRunner, PeriodicTask
from workers.resources import Resources, open_resources, shared_engine

log = structlog.get_logger()

TICK = timedelta(seconds=1)
UNKNOWN_CHANNEL_GRACE = timedelta(minutes=10)
"""How long a push waits for a channel that this clock does not know: other processes may have newer settings."""
DIED = "the worker died during this run"
RELEASED = "its worker released it: the database or Redis was unavailable, or the worker was stopped"
ENDED = (JobState.LOST, JobState.CRASHED)


class Clock:
    """Does what is due once a second. Several clocks at once do no harm."""

    def __init__(
        self, resources: Resources, tasks: Sequence[PeriodicTask] = (), *, grace: timedelta = LEASE_TIMEOUT
    ) -> None:
        self._resources = resources
        self._tasks = tasks
        self._leases = LeaseMonitor(resources.connection, grace=grace)
        self._rollback = ClockRollback(resources.engine)
        self._registry = ProcessRegistry(resources.connection)
        loaded = tuple(each.name for each in resources.plugins.subscriptions)
        self._record = replace(ProcessRecord.of_this_process(ProcessType.CLOCK), handlers=loaded)

    def run(self, stop: threading.Event, *, tick: timedelta = TICK) -> None:
        """Tick until the event is set, with the push senders and the periodic tasks in threads of their own.

        Goes on while Redis or the database is unavailable, and logs that once.
        """
        senders, tasks = SenderPool(self._resources), PeriodicRunner([*background_tasks(self._resources), *self._tasks])
        senders.start()
        tasks.start()
        try:
            self._tick_until(stop, tick, senders, tasks)
        finally:
            tasks.stop()
            senders.stop()
            self._registry.stop(self._record)

    def _tick_until(self, stop: threading.Event, tick: timedelta, senders: SenderPool, tasks: PeriodicRunner) -> None:
        logged: str | None = None
        while not stop.wait(tick.total_seconds()):
            senders.check()
            tasks.check()
            self.beat()
            try:
                self.tick()
            except (QueueUnavailable, LedgerUnavailable) as error:
                if logged != str(error):
                    log.warning("clock.tick_failed", reason=str(error))
                logged = str(error)
            else:
                logged = None

    def beat(self) -> None:
        """Report this clock in the registry of processes if it is time, and if Redis answers."""
        if self._registry.is_due:
            with contextlib.suppress(QueueUnavailable):  # the tick reports that
                self._registry.beat(self._record)

    def tick(self) -> None:
        """Recover lost runs, expire what is overdue, enqueue what is due, publish dead letters."""
        self._rollback.check()
        trim_failed_jobs(self._resources)  # it needs no memory in Redis, and the others may find none
        self.sweep()
        expired = run_in_transaction(self._resources.engine, self._expire)
        work_metrics.count_runs((handler, Outcome.MOOT) for _, handler in expired)
        enqueue_due_runs(self._resources)
        publish_dead_letters(self._resources)
        work_metrics.flush(self._resources.connection)

    def _expire(self, ledger: Connection) -> list[RunKey]:
        pushes.expire_unknown_channels(ledger, self._resources.channels, datetime.now(UTC) - UNKNOWN_CHANNEL_GRACE)
        return run_schedule.expire(ledger, datetime.now(UTC))

    def sweep(self) -> None:
        """Find runs whose job is lost or whose worker died, and make them due again."""
        engine, deaths_allowed = self._resources.engine, self._resources.settings.poison_deaths
        enqueued, running = read_once(
            engine, lambda ledger: (run_schedule.enqueued(ledger), run_schedule.running(ledger))
        )
        states = self._leases.poll({run.job_id: run.queue for run in [*enqueued, *running] if run.job_id})
        lost = [run for run in enqueued if states.get(run.job_id or "") in ENDED]
        released = [run for run in running if states.get(run.job_id or "") is JobState.LOST]
        crashed = [run for run in running if states.get(run.job_id or "") is JobState.CRASHED]
        if not lost and not released and not crashed:
            return

        def recover(ledger: Connection) -> list[tuple[OpenRun, Outcome]]:
            run_schedule.set_jobs(ledger, dict.fromkeys(run.key for run in lost))
            run_schedule.release(ledger, released, now=datetime.now(UTC), reason=RELEASED)
            return run_schedule.fail_crashed(
                ledger, crashed, now=datetime.now(UTC), deaths_allowed=deaths_allowed, error=DIED
            )

        failed = run_in_transaction(engine, recover)
        work_metrics.count_runs((run.handler, outcome) for run, outcome in failed)
        for run, outcome in failed:
            about = {"handler": run.handler, "delivery": run.delivery_id, "attempt": run.attempt}
            next_at = None if outcome is Outcome.DEAD else datetime.now(UTC).isoformat(timespec="seconds")
            log.error("run.failed", **about, error=DIED, outcome=outcome.value, next_attempt_at=next_at)
        log.warning("runs.recovered", lost=len(lost), released=len(released), crashed=len(crashed))


class AnnounceInstallation:
    """Announces the installation in Redis, again and again: Redis may have been flushed."""

    name = "installation"
    every = timedelta(seconds=5)

    def __init__(self, connection: NamespacedRedis, installation: Installation) -> None:
        self._connection = connection
        self._installation = installation

    def run(self) -> None:
        """Announce it."""
        announce_quietly(self._connection, self._installation)


def background_tasks(resources: Resources) -> list[PeriodicTask]:
    """Return the periodic tasks that the settings ask for. Raise SettingsError for a bad setting of one."""
    is_sqlite = resources.engine.dialect.name == "sqlite"
    return [
        *([LedgerCheckpointTask(resources.engine)] if is_sqlite else []),
        *reconciliation_tasks(resources),
        *sync_tasks(resources),
        AlertEvaluator(resources.engine, resources.settings, resources.connection),
        RetentionTask(resources.engine, resources.settings, resources.plugins.own_tables),
        LateErasureTask(resources.engine, resources.connection, resources.plugins.own_tables),
        *notifiers(resources.engine, resources.settings),
    ]


def clock(settings: Settings) -> None:
    """Run the clock until SIGTERM or SIGINT."""
    configure_logging(settings, "clock")
    tracing.configure(settings, "clock")
    settings.require_redis()
    connection, installation = join_installation(settings, shared_engine())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    resources = open_resources(connection)
    require_plugin_tables(resources.engine, resources.plugins.tables)
    metrics = MetricsServer(create_metrics_app(installation_registry(resources.engine, resources.connection)), settings)
    ticking = Clock(resources, [AnnounceInstallation(connection, installation)])
    log.info("clock.started", namespace=connection.namespace)
    metrics.start()
    ticking.run(stop)
    metrics.stop()
    log.info("clock.stopped")
