"""The sessions that runs begin to wait for: whether news of them has come since their handlers looked.

What is committed between the look and the record of a run has woken nobody, as the run did not wait yet; what is merged
at this moment does not see the run. So who records runs that wait keeps their sessions as they are until it commits:
either the news is there by now, or the transaction that brings it comes later, sees the run and wakes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, select

from handlers.kit.session import Session
from workers.ledger.database.bulk_insert import insert_new
from workers.ledger.database.in_list import in_list
from workers.ledger.sessions import row_of
from workers.ledger.tables.core import sessions

LOCKED = (
    select(sessions.c.session_id, sessions.c.facts, sessions.c.updated_at)
    .where(in_list(sessions.c.session_id, "ids"))
    .order_by(sessions.c.session_id)
    .with_for_update(read=True)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionWait:
    """A session that a run begins to wait for, and what its handler knew of it."""

    session_id: str
    #: When the handler was called.
    since: datetime
    #: Whether it looked at the session through its context. If not, only the times can tell, as well as clocks agree.
    has_looked: bool
    #: What it saw; None if nothing was known.
    seen: Session | None

    def is_news(self, found: tuple[Session, datetime] | None) -> bool:
        """Say whether the handler could know more by now."""
        if self.has_looked:
            return self.seen != (found[0] if found else None)
        return found is not None and found[1] > self.since


def has_changed(conn: Connection, awaited: Sequence[SessionWait]) -> list[bool]:
    """Say of each whether there is news, and let none come to any of them before this transaction ends.

    Call it before runs are recorded: a merge locks sessions first, too.
    """
    if not awaited:
        return []
    unknown = _lock_missing(conn, {each.session_id for each in awaited if each.seen is None})
    known = {each.session_id for each in awaited} - unknown
    found: dict[str, tuple[Session, datetime]] = {}
    if known:
        for session_id, facts, updated_at in conn.execute(LOCKED, {"ids": sorted(known)}):
            found[session_id] = Session.from_document(session_id, facts), updated_at
    return [each.is_news(found.get(each.session_id)) for each in awaited]


def _lock_missing(conn: Connection, session_ids: set[str]) -> set[str]:
    """Keep others from making the records of those of these sessions that have none, and return them.

    A row that was inserted, even if it was deleted again, makes whoever inserts the same one wait for the end of this
    transaction; nobody ever sees it. On SQLite nobody else can write now anyway.
    """
    if conn.dialect.name == "sqlite" or not session_ids:
        return set()
    now = datetime.now(UTC)
    rows = [row_of(Session.empty(session_id), now) for session_id in session_ids]
    held = {session_id for (session_id,) in insert_new(conn, sessions, rows)}
    if held:
        conn.execute(delete(sessions).where(in_list(sessions.c.session_id, held)))
    return held
