"""What a session of the Drive API says in the words of our record, to be merged like an event; pure.

A fact has a time, and that must be one of Plugsurfing's and not the time at which we read: else a record would depend
on how often we look, and a session that is over would be opened again by a look at an answer that was behind.
"""

from datetime import UTC, datetime

from handlers.kit.session import DRIVE, DriverAssignment, Session, StatusTimes
from ingest.events import LONGEST_TEXT, sanitize_text
from workers.drive.models import DriveSession

STARTED, STOPPED, COMPLETE = "STARTED", "STOPPED", "COMPLETE"
NOT_STARTED = frozenset({"WAITING_TO_START", "START_FAILED"})
STILL_RUNNING = frozenset({STARTED, "STOP_FAILED"})
ENDS = frozenset({STOPPED, COMPLETE})

UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)
"""The time of what has none: before everything else, so that it overrules nothing."""


def to_session(drive: DriveSession, seen_at: datetime) -> Session:
    """Tell what the Drive API alone says about a session; `seen_at` is when it was first seen to say this status.

    The start is placed at the start that it gives, and an end at the end, else when we first saw it. A completion is
    where it says, else where the end is. Any other status is placed at the start: it may be behind what events tell,
    and there it overrules nothing that came after the start.
    """
    status = status_of(drive)
    begun_at = drive.started_at or UNKNOWN_TIME
    ended_at = drive.ended_at or max(seen_at, begun_at)
    said = {status: begun_at}
    if drive.ended_at is not None and status not in STILL_RUNNING | NOT_STARTED:
        said[STOPPED] = drive.ended_at
    if status in ENDS:
        said[status] = (drive.completed_at or ended_at) if status == COMPLETE else ended_at
    if status in STILL_RUNNING | ENDS:
        said[STARTED] = begun_at
    if drive.started_at is None:
        said.pop(STARTED, None)  # a start without its time is none: `started_at` follows from it
    sources = frozenset({DRIVE})
    return Session(
        drive.session_id,
        statuses={name: StatusTimes(at, at, sources) for name, at in said.items()},
        users={sanitize_text(drive.user_id): DriverAssignment(begun_at, DRIVE)} if drive.user_id else {},
    )


def status_of(drive: DriveSession) -> str:
    """Give the status such that every database takes it."""
    return sanitize_text(drive.status)[:LONGEST_TEXT]


def is_storable(drive: DriveSession) -> bool:
    """Say whether its id is one that events could name, too."""
    return sanitize_text(drive.session_id) == drive.session_id and len(drive.session_id) <= LONGEST_TEXT
