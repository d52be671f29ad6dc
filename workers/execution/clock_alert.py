"""The RQ job in which a worker raises the alert that no clock runs, and sends it, since the clock cannot."""

from datetime import UTC, datetime

from sqlalchemy import Connection

from ingest.queue.process_monitor import ALL, find_absences
from ingest.queue.process_registry import ProcessRegistry, ProcessType
from workers.alerts.alerts import Alert, AlertKind, raise_alert
from workers.alerts.notifier import notifiers
from workers.ledger.database.transaction import run_in_transaction
from workers.resources import open_resources


def raise_clock_gone() -> None:
    """Raise and send the alert, unless a clock has reported meanwhile. A clock resolves it when one runs again.

    It is claimed in the ledger before it is sent: whoever sends it, a worker or a clock that is back, it is sent once.
    A worker without ALERT_URLS logs it, and a clock that is back sends it.
    """
    resources = open_resources()
    processes = ProcessRegistry(resources.connection).processes()
    gone = [each for each in find_absences(processes) if each.process is ProcessType.CLOCK and each.subject == ALL]
    since = max((each.last_beat_at for each in processes if each.process is ProcessType.CLOCK), default=None)

    def raise_all(ledger: Connection) -> None:
        for each in gone:
            alert = Alert(AlertKind.CLOCK_GONE, each.subject, each.sentence)
            raise_alert(ledger, alert, datetime.now(UTC), since=since)

    if gone:
        run_in_transaction(resources.engine, raise_all)
        for notifier in notifiers(resources.engine, resources.settings, others_send=True):
            notifier.run()
