"""The process type `clock`: what must happen although nothing arrives.

Until the inbox has its acknowledgement the relay answers for a delivery; from then on this sweep does.
"""

import signal
import threading
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Connection

from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable
from ingest.log import configure_logging
from ingest.queue.leases import LEASE_TIMEOUT, JobState, LeaseMonitor
from ingest.queue.queues import connect_redis
from workers.alerts.evaluator import AlertEvaluator
from workers.alerts.notifier import notifiers
from workers.clock.clock_rollback import ClockRollback
from workers.clock.push_sender import SenderPool
from workers.execution.dead_letters import publish_dead_letters
from workers.execution.enqueue import enqueue_due_runs
from workers.ledger import pushes, run_schedule
from workers.ledger.database.transaction import LedgerUnavailable, read_once, run_in_transaction
from workers.policies.sync import sync_tasks
from workers.reconciliation.tasks import reconciliation_tasks
from workers.resilience.periodic import PeriodicRunner, PeriodicTask
from workers.resources import Resources, open_resources

log = structlog.get_logger()

TICK = timedelta(seconds=1)
UNNAMED_FOR = timedelta(minutes=10)
"""How long a push waits for a channel that this clock does not know: another process may be ahead of its settings."""
DIED = "the worker died while it made this run"
HANDED_BACK = "its worker handed it back: the database or Redis was away, or the worker was told to end"
ENDED = (JobState.LOST, JobState.CRASHED)


class Clock:
    """Does once a second what is due. Several clocks at once do no harm."""

    def __init__(self, equipment: Resources, *, grace: timedelta = LEASE_TIMEOUT) -> None:
        self._equipment = equipment
        self._watch = LeaseMonitor(equipment.connection, grace=grace)
        self._setback = ClockRollback(equipment.engine)

    def run(self, stop: threading.Event, *, tick: timedelta = TICK) -> None:
        """Tick, and send pushes and do the other duties beside that, until told to stop.

        While Redis or the database is away, say so once and go on trying.
        """
        senders, duties = SenderPool(self._equipment), PeriodicRunner(background_tasks(self._equipment))
        senders.start()
        duties.start()
        try:
            self._tick_until(stop, tick, senders, duties)
        finally:
            duties.stop()
            senders.stop()

    def _tick_until(self, stop: threading.Event, tick: timedelta, senders: SenderPool, duties: PeriodicRunner) -> None:
        away: str | None = None
        while not stop.wait(tick.total_seconds()):
            senders.check()
            duties.check()
            try:
                self.tick()
            except (QueueUnavailable, LedgerUnavailable) as failure:
                if away != str(failure):
                    log.warning("clock.waiting", reason=str(failure))
                away = str(failure)
            else:
                away = None

    def tick(self) -> None:
        """Sweep, offer what is due, end what is overdue, file what is dead."""
        self._setback.check()
        self.sweep()
        run_in_transaction(self._equipment.engine, self._expire)
        enqueue_due_runs(self._equipment)
        publish_dead_letters(self._equipment)

    def _expire(self, ledger: Connection) -> None:
        run_schedule.expire(ledger, datetime.now(UTC))
        pushes.expire_unknown_channels(ledger, self._equipment.channels, datetime.now(UTC) - UNNAMED_FOR)

    def sweep(self) -> None:
        """Find runs whose job is lost or whose worker died, and make them due again."""
        engine, allowed = self._equipment.engine, self._equipment.settings.poison_deaths
        offered, running = read_once(
            engine, lambda ledger: (run_schedule.enqueued(ledger), run_schedule.running(ledger))
        )
        standings = self._watch.poll({run.job_id: run.queue for run in [*offered, *running] if run.job_id})
        lost = [run for run in offered if standings.get(run.job_id or "") in ENDED]
        left = [run for run in running if standings.get(run.job_id or "") is JobState.LOST]
        orphaned = [run for run in running if standings.get(run.job_id or "") is JobState.CRASHED]
        if not lost and not left and not orphaned:
            return

        def release(ledger: Connection) -> None:
            run_schedule.clear_job(ledger, [run.key for run in lost])
            run_schedule.release(ledger, left, now=datetime.now(UTC), reason=HANDED_BACK)
            run_schedule.fail_crashed(ledger, orphaned, now=datetime.now(UTC), deaths_allowed=allowed, error=DIED)

        run_in_transaction(engine, release)
        log.warning("runs.offered_again", lost=len(lost), handed_back=len(left), orphaned=len(orphaned))


def background_tasks(equipment: Resources) -> list[PeriodicTask]:
    """Make the duties that the settings ask for. Raise SettingsError if one cannot be done."""
    return [
        *reconciliation_tasks(equipment),
        *sync_tasks(equipment),
        AlertEvaluator(equipment.engine, equipment.settings),
        *notifiers(equipment.engine, equipment.settings),
    ]


def clock(settings: Settings) -> None:
    """Run the clock until SIGTERM or SIGINT."""
    configure_logging(settings, "clock")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    keeper = Clock(open_resources(connect_redis(settings.require_redis())))
    log.info("clock.started")
    keeper.run(stop)
    log.info("clock.stopped")
