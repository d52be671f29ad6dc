"""Windows of time in which events may be missing, and how far each is backfilled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, null, or_, select, union, update

from handlers.kit.column_types import UtcDateTime
from ingest.inbox.downtime import Downtime
from workers.ledger.database.engine import insert_into
from workers.ledger.tables.core_tables import devices, sessions
from workers.ledger.tables.reconciliation_tables import ROUTINE, downtimes

NEAR = timedelta(days=1)
"""How much later another downtime may begin to be backfilled together with one."""


@dataclass(frozen=True, slots=True)
class DowntimeRow:
    """A downtime as the ledger knows it."""

    inbox: str
    closed_at: datetime
    opened_at: datetime
    noticed_at: datetime
    covered_at: datetime | None
    """When the sessions of all known users in it had been read; None before that."""
    sessions_read: int
    users_failed: int
    """Users whose sessions could not be read."""


@dataclass(frozen=True, slots=True)
class BackfillWindow:
    """A claimed window to be backfilled, with the downtimes near it that were noticed at the same time."""

    inbox: str
    closed_at: datetime
    opened_at: datetime
    """When the last of them ended."""
    noticed_at: datetime
    after_user: str | None
    """The last user whose sessions were read."""

    @property
    def is_routine(self) -> bool:
        """Whether it is no downtime of ours, but a routine backfill: Plugsurfing skips events."""
        return self.inbox == ROUTINE


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """The result for one user of a window."""

    user_id: str
    sessions_read: int
    is_failed: bool = False


def import_new(conn: Connection, found: Sequence[Downtime], now: datetime) -> list[Downtime]:
    """Insert downtimes, and return the new ones."""
    by_key = {(each.inbox, each.closed_at): each for each in sorted(found, reverse=True)}
    new = {"noticed_at": now, "sessions_read": 0, "users_failed": 0}
    rows = [
        {"inbox": each.inbox, "closed_at": each.closed_at, "opened_at": each.opened_at, **new}
        for each in sorted(by_key.values())
    ]
    if not rows:
        return []
    insert = insert_into(conn, downtimes).on_conflict_do_nothing().returning(downtimes.c.inbox, downtimes.c.closed_at)
    return sorted(by_key[inbox, closed_at] for inbox, closed_at in conn.execute(insert, rows))


def find(conn: Connection, *, ended_after: datetime | None = None, limit: int | None = None) -> list[DowntimeRow]:
    """List downtimes, the latest first."""
    query = select(*(downtimes.c[name] for name in DowntimeRow.__match_args__)).where(downtimes.c.inbox != ROUTINE)
    if ended_after is not None:
        query = query.where(downtimes.c.opened_at > ended_after)
    found = conn.execute(query.order_by(downtimes.c.opened_at.desc(), downtimes.c.inbox).limit(limit))
    return [DowntimeRow(*row) for row in found]


def schedule_routine(conn: Connection, every: timedelta, span: timedelta, now: datetime) -> bool:
    """Schedule a routine backfill of the last `span`, once in `every`, unless an earlier one is not covered yet.

    The window ends at a multiple of `every`, so that several clocks agree on one.
    """
    until = now - (now - datetime.min.replace(tzinfo=now.tzinfo)) % every
    waits_or_done = or_(downtimes.c.covered_at.is_(None), downtimes.c.opened_at >= until)
    if conn.scalar(select(exists().where(downtimes.c.inbox == ROUTINE, waits_or_done))):
        return False
    conn.execute(downtimes.delete().where(downtimes.c.inbox == ROUTINE, downtimes.c.covered_at.is_not(None)))
    return bool(import_new(conn, [Downtime(until - span, until, ROUTINE)], now))


def claim(conn: Connection, now: datetime, lease: timedelta) -> BackfillWindow | None:
    """Claim a window for the span of the lease, downtimes before routine windows.

    Downtimes that were noticed together and begin within a day are one: all nodes may have been down at once.
    """
    is_free = or_(downtimes.c.claimed_until.is_(None), downtimes.c.claimed_until <= now)
    row = conn.execute(
        select(*(downtimes.c[name] for name in BackfillWindow.__match_args__))
        .where(downtimes.c.covered_at.is_(None), is_free)
        .order_by((downtimes.c.inbox == ROUTINE), downtimes.c.closed_at, downtimes.c.inbox)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).first()
    if row is None:
        return None
    window = BackfillWindow(*row)
    opened_at = conn.scalar(select(func.max(downtimes.c.opened_at, type_=UtcDateTime)).where(_near(window)))
    conn.execute(update(downtimes).where(_near(window)).values(claimed_until=now + lease))
    return replace(window, opened_at=opened_at or window.opened_at)


def users_after(conn: Connection, user_id: str | None, known_since: datetime, limit: int) -> list[str]:
    """List the users with news of sessions or devices since then, ordered by id."""
    # In byte order, as in `devices`: a union needs one order.
    named = sessions.c.user_id.collate("C") if conn.dialect.name == "postgresql" else sessions.c.user_id
    of_sessions = select(named.label("user_id")).where(
        sessions.c.user_id.is_not(None), sessions.c.updated_at >= known_since, *_after(named, user_id)
    )
    of_devices = select(devices.c.user_id).where(
        devices.c.updated_at >= known_since, *_after(devices.c.user_id, user_id)
    )
    both = union(of_sessions, of_devices).subquery()
    return list(conn.scalars(select(both.c.user_id).order_by(both.c.user_id).limit(limit)))


def advance(conn: Connection, window: BackfillWindow, progress: BackfillProgress, claimed_until: datetime) -> None:
    """Record the result for a user, and renew the lease."""
    conn.execute(update(downtimes).where(_near(window)).values(claimed_until=claimed_until))
    conn.execute(
        update(downtimes)
        .where(downtimes.c.inbox == window.inbox, downtimes.c.closed_at == window.closed_at)
        .values(
            after_user=progress.user_id,
            sessions_read=downtimes.c.sessions_read + progress.sessions_read,
            users_failed=downtimes.c.users_failed + int(progress.is_failed),
        )
    )


def release(conn: Connection, window: BackfillWindow, covered_at: datetime | None) -> None:
    """Release a window, covered or to be continued."""
    conn.execute(update(downtimes).where(_near(window)).values(claimed_until=null(), covered_at=covered_at))


def _after(column: ColumnElement[Any], user_id: str | None) -> list[ColumnElement[bool]]:
    return [] if user_id is None else [column > user_id]


def _near(window: BackfillWindow) -> ColumnElement[bool]:
    """Match the window's downtimes: the same rows in every turn, for none of these columns changes."""
    return and_(
        (downtimes.c.inbox == ROUTINE) if window.is_routine else (downtimes.c.inbox != ROUTINE),
        downtimes.c.covered_at.is_(None),
        downtimes.c.noticed_at == window.noticed_at,
        downtimes.c.closed_at >= window.closed_at,
        downtimes.c.closed_at <= window.closed_at + NEAR,
    )
