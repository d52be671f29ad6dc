"""The record of each charging session: merged under a lock, and watched for news by runs that wait for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, delete, select

from handlers.kit.session import Session
from handlers.kit.statuses import FINAL_STATUSES
from workers.ledger.database.bulk_insert import insert_new, upsert
from workers.ledger.database.conditions import in_list, same_person
from workers.ledger.tables.core_tables import sessions

SessionUpdate = Callable[[Session], Session]

#: Columns with the same names in a Session, for queries.
DERIVED = tuple(name for name in sessions.c.keys() if name not in {"anomalies", "facts", "updated_at"})  # noqa: SIM118 - no dict
derived_values = attrgetter(*DERIVED)

# Built once: building a statement costs more than running it on a small batch.
KNOWN = select(sessions.c.session_id).where(in_list(sessions.c.session_id, "ids"))
SELECT = select(sessions.c.session_id, sessions.c.facts).where(in_list(sessions.c.session_id, "ids"))
SELECT_FOR_UPDATE = SELECT.order_by(sessions.c.session_id).with_for_update()
SELECT_FOR_SHARE = SELECT.add_columns(sessions.c.updated_at).order_by(sessions.c.session_id).with_for_update(read=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionWait:
    """A session that a run begins to wait for, and what its handler knew of it."""

    session_id: str
    #: When the handler was called.
    since: datetime
    #: Whether it read the session through its context; if not, the times decide, as well as clocks agree.
    was_read: bool
    #: What it read; None if the session was unknown.
    seen: Session | None

    def is_news(self, found: tuple[Session, datetime] | None) -> bool:
        """Return whether the handler could know more by now."""
        if self.was_read:
            return self.seen != (found[0] if found else None)
        return found is not None and found[1] > self.since


def merge(conn: Connection, updates: Mapping[str, SessionUpdate]) -> dict[str, Session]:
    """Apply updates to sessions, by id, and return all of them as they then are.

    An update must be pure: it may be called again on a newer state, when another worker was first. Sessions are locked
    in the order of their ids, so that workers with the same sessions never deadlock.
    """
    merged: dict[str, Session] = {}
    now = datetime.now(UTC)
    pending = sorted(updates)
    while pending:
        known = set(conn.scalars(KNOWN, {"ids": pending}))
        merged |= _insert(conn, {key: updates[key] for key in pending if key not in known}, now)
        pending = [key for key in pending if key not in merged]
        if pending:
            rows = conn.execute(SELECT_FOR_UPDATE, {"ids": pending})
            found = {key: Session.from_document(key, facts) for key, facts in rows}
            updated = {key: updates[key](session) for key, session in found.items()}
            upsert(conn, sessions, [row_of(updated[key], now) for key in found if updated[key] != found[key]])
            merged |= updated
            pending = [key for key in pending if key not in found]  # deleted meanwhile: insert them
    return merged


def has_new_driver(before: Session, after: Session) -> bool:
    """Return whether a session that had a driver has another one now."""
    return before.user_id is not None and before.user_id != after.user_id


def get(conn: Connection, session_id: str) -> Session | None:
    """Return a session, or None if it is unknown."""
    return fetch(conn, [session_id]).get(session_id)


def fetch(conn: Connection, session_ids: Sequence[str]) -> dict[str, Session]:
    """Return the known ones of these sessions, by id."""
    return {key: Session.from_document(key, facts) for key, facts in conn.execute(SELECT, {"ids": session_ids})}


def latest(conn: Connection, limit: int) -> list[Session]:
    """List the sessions with the latest news, newest first."""
    newest = select(sessions.c.session_id, sessions.c.facts).order_by(sessions.c.updated_at.desc())
    found = conn.execute(newest.limit(limit))
    return [Session.from_document(session_id, facts) for session_id, facts in found]


def of_user(conn: Connection, user_id: str, limit: int | None) -> list[Session]:
    """List the sessions of a driver, whose id may be in any case, those with the latest news first."""
    theirs = select(sessions.c.session_id, sessions.c.facts).where(same_person(sessions.c.user_id, user_id))
    found = conn.execute(theirs.order_by(sessions.c.updated_at.desc(), sessions.c.session_id).limit(limit))
    return [Session.from_document(session_id, facts) for session_id, facts in found]


def has_changed(conn: Connection, waits: Sequence[SessionWait]) -> list[bool]:
    """Return for each wait whether there is news, and lock its session until this transaction ends.

    This prevents lost wakeups: news between the handler's read and the record of its run wakes nobody. With the session
    locked, either the news is here by now, or the transaction that brings it comes later, sees the run and wakes it.
    Call it before runs are recorded: a merge locks sessions first, too.
    """
    if not waits:
        return []
    missing = _lock_missing(conn, {each.session_id for each in waits if each.seen is None})
    known = {each.session_id for each in waits} - missing
    found: dict[str, tuple[Session, datetime]] = {}
    if known:
        for session_id, facts, updated_at in conn.execute(SELECT_FOR_SHARE, {"ids": sorted(known)}):
            found[session_id] = Session.from_document(session_id, facts), updated_at
    return [each.is_news(found.get(each.session_id)) for each in waits]


def without_operator(conn: Connection, since: datetime, limit: int) -> list[tuple[str, str]]:
    """List the drivers and ids of open sessions with news since then whose operator is not known, newest news first."""
    query = (
        select(sessions.c.user_id, sessions.c.session_id, sessions.c.facts)
        .where(sessions.c.updated_at >= since, sessions.c.user_id.is_not(None))
        .where(sessions.c.status.not_in(FINAL_STATUSES))
        .order_by(sessions.c.updated_at.desc())
        .limit(limit)
    )
    return [(user_id, session_id) for user_id, session_id, facts in conn.execute(query) if "operator" not in facts]


def row_of(session: Session, now: datetime) -> dict[str, Any]:
    """Return a session as a row."""
    derived = zip(DERIVED, derived_values(session), strict=True)
    return dict(derived, anomalies=list(session.anomalies), facts=session.to_document(), updated_at=now)


def _insert(conn: Connection, updates: Mapping[str, SessionUpdate], now: datetime) -> dict[str, Session]:
    """Insert new sessions; those that stay empty get no row."""
    updated = {key: (Session.empty(key), update(Session.empty(key))) for key, update in updates.items()}
    unknown = {key: session for key, (empty, session) in updated.items() if session == empty}
    rows = [row_of(session, now) for key, (_, session) in updated.items() if key not in unknown]
    return unknown | {key: updated[key][1] for (key,) in insert_new(conn, sessions, rows)}


def _lock_missing(conn: Connection, session_ids: set[str]) -> set[str]:
    """Block others from inserting the missing ones of these sessions, and return the missing ones.

    A row that was inserted, even if it was deleted again, makes another INSERT of it wait for the end of this
    transaction; nobody ever sees it. On SQLite this transaction is the only one that writes anyway.
    """
    if conn.dialect.name == "sqlite" or not session_ids:
        return set()
    now = datetime.now(UTC)
    rows = [row_of(Session.empty(session_id), now) for session_id in session_ids]
    locked = {session_id for (session_id,) in insert_new(conn, sessions, rows)}
    if locked:
        conn.execute(delete(sessions).where(in_list(sessions.c.session_id, locked)))
    return locked
