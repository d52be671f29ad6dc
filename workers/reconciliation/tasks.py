"""The clock's duties by which records become true although events were skipped or came to a closed door."""

from workers.drive.client import DriveClient
from workers.reconciliation.backfill import BackfillHistories, ImportDowntimes
from workers.reconciliation.poll_sessions import PollSilentSessions
from workers.resilience.periodic import PeriodicTask
from workers.resilience.token_bucket import TokenBucket
from workers.resources import Resources


def reconciliation_tasks(equipment: Resources) -> list[PeriodicTask]:
    """Make them. Without a key of the Drive API gaps are noticed, and that is all."""
    duties: list[PeriodicTask] = [ImportDowntimes(equipment)]
    if equipment.settings.has_drive:
        drive = DriveClient(equipment.settings, equipment.connection)
        allowance = TokenBucket(equipment.settings.reconcile_per_minute)
        duties += [PollSilentSessions(equipment, drive, allowance), BackfillHistories(equipment, drive, allowance)]
    return duties
