"""The clock's duties by which records become true although events were skipped or came to a closed door."""

from workers.drive.client import DriveClient
from workers.equipment import Equipment
from workers.history import CoverGaps, NoticeGaps
from workers.reconcile import Reconcile
from workers.resilience.periodic import PeriodicTask
from workers.resilience.token_bucket import TokenBucket


def truth_duties(equipment: Equipment) -> list[PeriodicTask]:
    """Make them. Without a key of the Drive API gaps are noticed, and that is all."""
    duties: list[PeriodicTask] = [NoticeGaps(equipment)]
    if equipment.settings.has_drive:
        drive = DriveClient(equipment.settings, equipment.connection)
        allowance = TokenBucket(equipment.settings.reconcile_per_minute)
        duties += [Reconcile(equipment, drive, allowance), CoverGaps(equipment, drive, allowance)]
    return duties
