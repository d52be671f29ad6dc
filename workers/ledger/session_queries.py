"""The records of charging sessions, listed by filters."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, select

from handlers.kit.statuses import STATUSES
from workers.ledger.database.conditions import Position, Unindexed, matching, older_than, same_person, within
from workers.ledger.tables.core_tables import IS_OPEN, sessions

FETCH_SIZE = 1000

OPEN = "open"
OPEN_STATUSES = (OPEN, *(name for name, status in STATUSES.items() if not status.is_over))
"""What is found by status: any session that has not ended, or one of its known statuses. No index has the others."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as it is listed: what follows from its facts, and when its last news came."""

    session_id: str
    user_id: str | None = field(repr=False)
    status: str | None
    started_at: datetime | None
    stopped_at: datetime | None
    completed_at: datetime | None
    fee_type: str | None
    fee_will_apply_from: datetime | None
    anomalies: Sequence[str]
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class SessionFilters:
    """Which sessions are wanted; None is any. The times are of their last news."""

    user_id: str | None = field(default=None, repr=False)
    """In any case."""
    status: str | None = None
    """One of OPEN_STATUSES."""
    since: datetime | None = None
    until: datetime | None = None


COLUMNS = [sessions.c[name] for name in SessionRow.__dataclass_fields__]


def find(
    conn: Connection, filters: SessionFilters, limit: int | None, before: Position | None = None
) -> Iterator[SessionRow]:
    """Yield sessions, those with the latest news first. Those behind a position are the next page."""
    at: ColumnElement[datetime] = sessions.c.updated_at
    query = select(*COLUMNS)
    if filters.status is not None:
        # Those that are open are few, and are all read: in the order of news many others may be before them.
        at = Unindexed(sessions.c.updated_at)
        query = query.where(IS_OPEN, *matching(sessions, status=None if filters.status == OPEN else filters.status))
    if filters.user_id is not None:
        query = query.where(same_person(sessions.c.user_id, filters.user_id))
    query = query.where(*within(at, filters.since, filters.until), *older_than(at, sessions.c.session_id, before))
    query = query.order_by(at.desc(), sessions.c.session_id).limit(limit)
    for row in conn.execute(query.execution_options(yield_per=FETCH_SIZE)):
        yield SessionRow(*row)
