"""The clock's duties by which records become true although events were skipped or came to a closed door."""

from workers.allowance import Allowance
from workers.drive.client import DriveClient
from workers.duties import Duty
from workers.equipment import Equipment
from workers.history import CoverGaps, NoticeGaps
from workers.reconcile import Reconcile


def truth_duties(equipment: Equipment) -> list[Duty]:
    """Make them. Without a key of the Drive API gaps are noticed, and that is all."""
    duties: list[Duty] = [NoticeGaps(equipment)]
    if equipment.settings.has_drive:
        drive = DriveClient(equipment.settings, equipment.connection)
        allowance = Allowance(equipment.settings.reconcile_per_minute)
        duties += [Reconcile(equipment, drive, allowance), CoverGaps(equipment, drive, allowance)]
    return duties
