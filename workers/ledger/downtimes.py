"""Windows of time in which events may be missing, and how far each is covered."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, null, or_, select, union, update

from handlers.kit.column_types import UtcDateTime
from ingest.inbox.downtime import Downtime
from workers.ledger.database.engine import insert_into
from workers.ledger.tables.core import devices, sessions
from workers.ledger.tables.reconciliation import ROUTINE, downtimes

NEAR = timedelta(days=1)
"""How much later another gap may begin to be covered with one."""


@dataclass(frozen=True, slots=True)
class DowntimeRow:
    """A gap as the ledger has it."""

    inbox: str
    closed_at: datetime
    opened_at: datetime
    noticed_at: datetime
    covered_at: datetime | None
    """When all known users' sessions of that time had been read; None: not yet."""
    sessions_read: int
    users_failed: int
    """Users whose sessions could not be read."""


@dataclass(frozen=True, slots=True)
class BackfillWindow:
    """A window that is to be covered, claimed, with those that were noticed together with it and are near."""

    inbox: str
    closed_at: datetime
    opened_at: datetime
    """When the last of them was over."""
    noticed_at: datetime
    after_user: str | None
    """The last user whose sessions have been read."""

    @property
    def is_routine(self) -> bool:
        """Say whether no door was closed: it is looked at because Plugsurfing skips events."""
        return self.inbox == ROUTINE


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """A user's part of a window, done."""

    user_id: str
    sessions_read: int
    is_failed: bool = False


def import_new(conn: Connection, found: Sequence[Downtime], now: datetime) -> list[Downtime]:
    """Take gaps in, and return those that are new."""
    by_key = {(gap.inbox, gap.closed_at): gap for gap in sorted(found, reverse=True)}
    rows = [
        {
            "inbox": gap.inbox,
            "closed_at": gap.closed_at,
            "opened_at": gap.opened_at,
            "noticed_at": now,
            "sessions_read": 0,
            "users_failed": 0,
        }
        for gap in sorted(by_key.values())
    ]
    if not rows:
        return []
    insert = insert_into(conn, downtimes).on_conflict_do_nothing().returning(downtimes.c.inbox, downtimes.c.closed_at)
    return sorted(by_key[inbox, closed_at] for inbox, closed_at in conn.execute(insert, rows))


def find(conn: Connection, limit: int | None = None) -> list[DowntimeRow]:
    """List the times at which a door was closed, the latest first."""
    found = conn.execute(
        select(*(downtimes.c[name] for name in DowntimeRow.__match_args__))
        .where(downtimes.c.inbox != ROUTINE)
        .order_by(downtimes.c.closed_at.desc(), downtimes.c.inbox)
        .limit(limit)
    )
    return [DowntimeRow(*row) for row in found]


def schedule_routine(conn: Connection, every: timedelta, span: timedelta, now: datetime) -> bool:
    """Have the last `span` looked through, once in `every`; clocks agree on the time, so one of them does it.

    Not while an earlier one is not covered.
    """
    waits = conn.execute(
        select(downtimes.c.inbox).where(downtimes.c.inbox == ROUTINE, downtimes.c.covered_at.is_(None)).limit(1)
    )
    if waits.first() is not None:
        return False
    until = now - (now - datetime.min.replace(tzinfo=now.tzinfo)) % every
    done = conn.execute(
        select(downtimes.c.inbox).where(downtimes.c.inbox == ROUTINE, downtimes.c.opened_at >= until).limit(1)
    )
    if done.first() is not None:
        return False
    conn.execute(downtimes.delete().where(downtimes.c.inbox == ROUTINE, downtimes.c.covered_at.is_not(None)))
    return bool(import_new(conn, [Downtime(until - span, until, ROUTINE)], now))


def claim(conn: Connection, now: datetime, lease: timedelta) -> BackfillWindow | None:
    """Take a gap that is to be covered, closed doors first; nobody else gets it before the lease is over.

    Gaps that were noticed together and begin within a day are one: all nodes may have been down at once.
    """
    row = conn.execute(
        select(
            downtimes.c.inbox,
            downtimes.c.closed_at,
            downtimes.c.opened_at,
            downtimes.c.noticed_at,
            downtimes.c.after_user,
        )
        .where(
            downtimes.c.covered_at.is_(None), or_(downtimes.c.claimed_until.is_(None), downtimes.c.claimed_until <= now)
        )
        .order_by((downtimes.c.inbox == ROUTINE), downtimes.c.closed_at, downtimes.c.inbox)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).first()
    if row is None:
        return None
    gap = BackfillWindow(*row)
    opened_at = conn.scalar(select(func.max(downtimes.c.opened_at, type_=UtcDateTime)).where(_near(gap)))
    conn.execute(update(downtimes).where(_near(gap)).values(claimed_until=now + lease))
    return replace(gap, opened_at=opened_at or gap.opened_at)


def users_after(conn: Connection, user_id: str | None, known_since: datetime, limit: int) -> list[str]:
    """List known users in the order of their ids: those with sessions or devices that had news since then."""
    # Byte by byte, as `devices` has them: two orders could not be put together.
    named = sessions.c.user_id.collate("C") if conn.dialect.name == "postgresql" else sessions.c.user_id
    of_sessions = select(named.label("user_id")).where(
        sessions.c.user_id.is_not(None), sessions.c.updated_at >= known_since, *_after(named, user_id)
    )
    of_devices = select(devices.c.user_id).where(
        devices.c.updated_at >= known_since, *_after(devices.c.user_id, user_id)
    )
    both = union(of_sessions, of_devices).subquery()
    return list(conn.scalars(select(both.c.user_id).order_by(both.c.user_id).limit(limit)))


def advance(conn: Connection, gap: BackfillWindow, step: BackfillProgress, claimed_until: datetime) -> None:
    """Note that the sessions of a user have been read, or could not be."""
    conn.execute(update(downtimes).where(_near(gap)).values(claimed_until=claimed_until))
    conn.execute(
        update(downtimes)
        .where(downtimes.c.inbox == gap.inbox, downtimes.c.closed_at == gap.closed_at)
        .values(
            after_user=step.user_id,
            sessions_read=downtimes.c.sessions_read + step.sessions_read,
            users_failed=downtimes.c.users_failed + int(step.is_failed),
        )
    )


def release(conn: Connection, gap: BackfillWindow, covered_at: datetime | None) -> None:
    """Give a gap back, covered or to be gone on with."""
    conn.execute(update(downtimes).where(_near(gap)).values(claimed_until=null(), covered_at=covered_at))


def _after(column: ColumnElement[Any], user_id: str | None) -> list[ColumnElement[bool]]:
    return [] if user_id is None else [column > user_id]


def _near(gap: BackfillWindow) -> ColumnElement[bool]:
    """Name the gap and those that are covered with it; the same ones in every turn, as nothing here changes."""
    return and_(
        (downtimes.c.inbox == ROUTINE) if gap.is_routine else (downtimes.c.inbox != ROUTINE),
        downtimes.c.covered_at.is_(None),
        downtimes.c.noticed_at == gap.noticed_at,
        downtimes.c.closed_at >= gap.closed_at,
        downtimes.c.closed_at <= gap.closed_at + NEAR,
    )
