"""When something that is read from the Drive API as a whole was read last, and when it is to be read again."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from workers.ledger.database.engine import insert_into
from workers.ledger.tables.authorization import drive_readings


@dataclass(frozen=True, slots=True)
class SyncState:
    """How it stands with one subject."""

    subject: str
    generation: int
    """It is raised by each reading that was complete; 0 before the first."""
    read_at: datetime | None
    due_at: datetime
    rows_read: int
    failed_at: datetime | None
    """When a reading failed, if that was after the last one that was complete."""
    reason: str | None


COLUMNS = [drive_readings.c[name] for name in SyncState.__dataclass_fields__]


def get(conn: Connection, subject: str) -> SyncState | None:
    """Find out how it stands; None if nobody ever wanted it."""
    row = conn.execute(select(*COLUMNS).where(drive_readings.c.subject == subject)).one_or_none()
    return None if row is None else SyncState(*row)


def claim(conn: Connection, subject: str, now: datetime, span: timedelta) -> bool:
    """Take it on for reading if it is due; nobody else gets it before the span is over."""
    new = {"generation": 0, "rows_read": 0, "due_at": now}
    conn.execute(insert_into(conn, drive_readings).values(subject=subject, **new).on_conflict_do_nothing())
    mine = update(drive_readings).where(drive_readings.c.subject == subject, drive_readings.c.due_at <= now)
    return conn.execute(mine.values(due_at=now + span)).rowcount == 1


def renew(conn: Connection, subject: str, claimed_until: datetime, until: datetime) -> bool:
    """Keep for longer what was claimed until a time; False, and nothing is changed, if it is somebody else's by now."""
    mine = update(drive_readings).where(drive_readings.c.subject == subject, drive_readings.c.due_at == claimed_until)
    return conn.execute(mine.values(due_at=until)).rowcount == 1


def begin_generation(conn: Connection, subject: str) -> int:
    """Raise the generation and return it. Until the end of the transaction whoever else wants to raise it waits."""
    raised = update(drive_readings).where(drive_readings.c.subject == subject)
    raised = raised.values(generation=drive_readings.c.generation + 1)
    generation: int = conn.execute(raised.returning(drive_readings.c.generation)).scalar_one()
    return generation


def mark_complete(conn: Connection, subject: str, now: datetime, due_at: datetime, rows_read: int) -> None:
    """Say that all of it was read."""
    values = {"read_at": now, "due_at": due_at, "rows_read": rows_read, "failed_at": None, "reason": None}
    conn.execute(update(drive_readings).where(drive_readings.c.subject == subject).values(values))


def failed(conn: Connection, subject: str, now: datetime, due_at: datetime, reason: str) -> None:
    """Say that it could not be read, so what was read before stands, and when to try again."""
    values = {"failed_at": now, "due_at": due_at, "reason": reason}
    conn.execute(update(drive_readings).where(drive_readings.c.subject == subject).values(values))


def expedite(conn: Connection, subject: str, due_at: datetime, *, instead_of: datetime) -> bool:
    """Have it read earlier than it would be, unless somebody has changed that time or is reading it; say whether."""
    later = update(drive_readings).where(drive_readings.c.subject == subject, drive_readings.c.due_at == instead_of)
    return conn.execute(later.where(drive_readings.c.due_at > due_at).values(due_at=due_at)).rowcount == 1
