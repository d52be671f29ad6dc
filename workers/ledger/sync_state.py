"""When a list that is read from the Drive API as a whole was synced last, and when it is due again."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from workers.ledger.database.engine import insert_into
from workers.ledger.tables.authorization_tables import drive_readings


@dataclass(frozen=True, slots=True)
class SyncState:
    """The state of one subject."""

    subject: str
    generation: int
    """Raised by each complete sync; 0 before the first."""
    read_at: datetime | None
    due_at: datetime
    rows_read: int
    failed_at: datetime | None
    """When a sync failed, if that was after the last complete one."""
    reason: str | None


COLUMNS = [drive_readings.c[name] for name in SyncState.__dataclass_fields__]


def get(conn: Connection, subject: str) -> SyncState | None:
    """Return the state of a subject; None if it was never claimed."""
    row = conn.execute(select(*COLUMNS).where(drive_readings.c.subject == subject)).one_or_none()
    return None if row is None else SyncState(*row)


def claim(conn: Connection, subject: str, now: datetime, span: timedelta) -> bool:
    """Claim a due subject for the span; return whether it is claimed."""
    new = {"generation": 0, "rows_read": 0, "due_at": now}
    conn.execute(insert_into(conn, drive_readings).values(subject=subject, **new).on_conflict_do_nothing())
    mine = update(drive_readings).where(drive_readings.c.subject == subject, drive_readings.c.due_at <= now)
    return conn.execute(mine.values(due_at=now + span)).rowcount == 1


def renew(conn: Connection, subject: str, claimed_until: datetime, until: datetime) -> bool:
    """Renew a claim; return False, and change nothing, if somebody else has claimed the subject since."""
    mine = update(drive_readings).where(drive_readings.c.subject == subject, drive_readings.c.due_at == claimed_until)
    return conn.execute(mine.values(due_at=until)).rowcount == 1


def begin_generation(conn: Connection, subject: str) -> int:
    """Raise the generation and return it; the subject stays locked until the end of the transaction."""
    raised = update(drive_readings).where(drive_readings.c.subject == subject)
    raised = raised.values(generation=drive_readings.c.generation + 1)
    generation: int = conn.execute(raised.returning(drive_readings.c.generation)).scalar_one()
    return generation


def mark_complete(conn: Connection, subject: str, now: datetime, due_at: datetime, rows_read: int) -> None:
    """Record a complete sync."""
    values = {"read_at": now, "due_at": due_at, "rows_read": rows_read, "failed_at": None, "reason": None}
    conn.execute(update(drive_readings).where(drive_readings.c.subject == subject).values(values))


def mark_failed(conn: Connection, subject: str, now: datetime, due_at: datetime, reason: str) -> None:
    """Record a failed sync and when to try again; what was read before stands."""
    values = {"failed_at": now, "due_at": due_at, "reason": reason}
    conn.execute(update(drive_readings).where(drive_readings.c.subject == subject).values(values))


def expedite(conn: Connection, subject: str, due_at: datetime, *, instead_of: datetime) -> bool:
    """Bring a sync forward, unless its time was changed or it is claimed; return whether it was brought forward."""
    later = update(drive_readings).where(drive_readings.c.subject == subject, drive_readings.c.due_at == instead_of)
    return conn.execute(later.where(drive_readings.c.due_at > due_at).values(due_at=due_at)).rowcount == 1
