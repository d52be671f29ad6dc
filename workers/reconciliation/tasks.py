"""The clock's tasks that complete session records when events were skipped or sent during a downtime."""

from workers.drive.client import DriveClient
from workers.reconciliation.backfill import BackfillHistories, ImportDowntimes
from workers.reconciliation.operators import ReadOperators
from workers.reconciliation.poll_sessions import PollSilentSessions
from workers.resilience.periodic import PeriodicTask
from workers.resilience.token_bucket import TokenBucket
from workers.resources import Resources


def reconciliation_tasks(resources: Resources) -> list[PeriodicTask]:
    """Return the tasks; without a key of the Drive API downtimes are imported and nothing else."""
    tasks: list[PeriodicTask] = [ImportDowntimes(resources)]
    if resources.settings.has_drive:
        drive = DriveClient(resources.settings, resources.connection)
        budget = TokenBucket(resources.settings.reconcile_per_minute)
        tasks += [PollSilentSessions(resources, drive, budget), BackfillHistories(resources, drive, budget)]
        tasks.append(ReadOperators(resources, drive, budget))
    return tasks
