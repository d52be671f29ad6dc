"""Convert a session of the Drive API into facts of our session record, which merge like an event's; pure.

Each fact is placed at a time of Plugsurfing's, never at the time of our poll. Otherwise a record would depend on how
often we poll, and a stale response would reopen a session that is over.
"""

from datetime import UTC, datetime

from handlers.kit.session import DRIVE, DriverAssignment, OperatorName, Session, StatusTimes
from ingest.events import LONGEST_TEXT, sanitize_text
from workers.drive.models import DriveSession

STARTED, STOPPED, COMPLETE = "STARTED", "STOPPED", "COMPLETE"
NOT_STARTED = frozenset({"WAITING_TO_START", "START_FAILED"})
STILL_RUNNING = frozenset({STARTED, "STOP_FAILED"})
ENDS = frozenset({STOPPED, COMPLETE})

UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)
"""The time of facts without one: before everything else, so that they override nothing."""


def to_session(drive: DriveSession, seen_at: datetime) -> Session:
    """Return the record that follows from the Drive API alone; `seen_at` is when this status was first seen.

    The start is placed at its own time; an end at its own time, else at `seen_at`; a completion at its own time, else
    at the end. Any other status is placed at the start: it may be stale, and there it overrides no later event.
    """
    status = status_of(drive)
    started_at = drive.started_at or UNKNOWN_TIME
    ended_at = drive.ended_at or max(seen_at, started_at)
    times = {status: started_at}
    if drive.ended_at is not None and status not in STILL_RUNNING | NOT_STARTED:
        times[STOPPED] = drive.ended_at
    if status in ENDS:
        times[status] = (drive.completed_at or ended_at) if status == COMPLETE else ended_at
    if status in STILL_RUNNING | ENDS:
        times[STARTED] = started_at
    if drive.started_at is None:
        times.pop(STARTED, None)  # the record's `started_at` would follow from it
    sources, name = frozenset({DRIVE}), _operator(drive)
    return Session(
        drive.session_id,
        statuses={name: StatusTimes(at, at, sources) for name, at in times.items()},
        operator_name=OperatorName(drive.is_operator_of_location, started_at, name) if name else None,
        users={sanitize_text(drive.user_id): DriverAssignment(started_at, DRIVE)} if drive.user_id else {},
    )


def _operator(drive: DriveSession) -> str:
    return sanitize_text(drive.operator_display_name or "").strip()[:LONGEST_TEXT]


def status_of(drive: DriveSession) -> str:
    """Return the status as text that every database accepts."""
    return sanitize_text(drive.status)[:LONGEST_TEXT]


def is_storable(drive: DriveSession) -> bool:
    """Return whether its id is one that an event could name, too."""
    return sanitize_text(drive.session_id) == drive.session_id and len(drive.session_id) <= LONGEST_TEXT
