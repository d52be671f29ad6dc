"""The record of each charging session: read, merged under a lock, and written only when it has changed."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from handlers.kit.session import Session
from workers.ledger.database.bulk_insert import insert_new, upsert
from workers.ledger.database.in_list import in_list
from workers.ledger.tables.core import sessions

SessionUpdate = Callable[[Session], Session]

# Made once: building a statement costs more than running it on a small batch.
KNOWN = select(sessions.c.session_id).where(in_list(sessions.c.session_id, "ids"))
SELECT = select(sessions.c.session_id, sessions.c.facts).where(in_list(sessions.c.session_id, "ids"))
SELECT_FOR_UPDATE = SELECT.order_by(sessions.c.session_id).with_for_update()


def merge(conn: Connection, folds: Mapping[str, SessionUpdate]) -> dict[str, Session]:
    """Fold news into sessions by id and return them all as they then are.

    A fold must be pure: it may be called again on a newer state, when another worker was first. Sessions are locked in
    the order of their ids, so workers with the same sessions wait for each other instead of blocking each other.
    """
    merged: dict[str, Session] = {}
    now = datetime.now(UTC)
    pending = sorted(folds)
    while pending:
        known = _known(conn, pending)
        merged |= _insert(conn, {key: folds[key] for key in pending if key not in known}, now)
        pending = [key for key in pending if key not in merged]
        if pending:
            found = _locked(conn, pending)
            folded = {key: folds[key](session) for key, session in found.items()}
            upsert(conn, sessions, [row_of(folded[key], now) for key in found if folded[key] != found[key]])
            merged |= folded
            pending = [key for key in pending if key not in found]  # deleted since it was seen: once more, as new ones
    return merged


def get(conn: Connection, session_id: str) -> Session | None:
    """Read one session, or None if nothing is known of it."""
    facts = conn.execute(select(sessions.c.facts).where(sessions.c.session_id == session_id)).scalar_one_or_none()
    return None if facts is None else Session.from_document(session_id, facts)


def fetch(conn: Connection, session_ids: Sequence[str]) -> dict[str, Session]:
    """Read those of these sessions that are known, by id."""
    return {key: Session.from_document(key, facts) for key, facts in conn.execute(SELECT, {"ids": session_ids})}


def latest(conn: Connection, limit: int) -> list[Session]:
    """List the sessions that had news last, newest first."""
    found = conn.execute(
        select(sessions.c.session_id, sessions.c.facts).order_by(sessions.c.updated_at.desc()).limit(limit)
    )
    return [Session.from_document(session_id, facts) for session_id, facts in found]


def row_of(session: Session, now: datetime) -> dict[str, Any]:
    """Write a session as a row."""
    return {
        "session_id": session.session_id,
        "user_id": session.user_id,
        "status": session.status,
        "started_at": session.started_at,
        "stopped_at": session.stopped_at,
        "completed_at": session.completed_at,
        "fee_type": session.fee_type,
        "fee_will_apply_from": session.fee_will_apply_from,
        "anomalies": list(session.anomalies),
        "facts": session.to_document(),
        "updated_at": now,
    }


def _known(conn: Connection, session_ids: Sequence[str]) -> set[str]:
    return set(conn.scalars(KNOWN, {"ids": session_ids}))


def _insert(conn: Connection, folds: Mapping[str, SessionUpdate], now: datetime) -> dict[str, Session]:
    """Insert the new ones; those of which nothing is known even then get no row."""
    folded = {key: (Session.empty(key), fold(Session.empty(key))) for key, fold in folds.items()}
    unknown = {key: session for key, (empty, session) in folded.items() if session == empty}
    rows = [row_of(session, now) for key, (_, session) in folded.items() if key not in unknown]
    return unknown | {key: folded[key][1] for (key,) in insert_new(conn, sessions, rows)}


def _locked(conn: Connection, session_ids: Sequence[str]) -> dict[str, Session]:
    return {
        key: Session.from_document(key, facts) for key, facts in conn.execute(SELECT_FOR_UPDATE, {"ids": session_ids})
    }
