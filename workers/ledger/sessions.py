"""The record of each charging session: read, merged under a lock, and written only when it has changed."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from handlers.kit.session import Session
from workers.ledger.engine import chunks, insert_into
from workers.ledger.tables import sessions

Fold = Callable[[Session], Session]


def merge(conn: Connection, folds: Mapping[str, Fold]) -> dict[str, Session]:
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
        found = _locked(conn, pending)
        folded = {key: folds[key](session) for key, session in found.items()}
        _update(conn, [folded[key] for key in found if folded[key] != found[key]], now)
        merged |= folded
        pending = [key for key in pending if key not in merged]  # deleted since it was seen: once more, as a new one
    return merged


def get(conn: Connection, session_id: str) -> Session | None:
    """Read one session, or None if nothing is known of it."""
    facts = conn.execute(select(sessions.c.facts).where(sessions.c.session_id == session_id)).scalar_one_or_none()
    return None if facts is None else Session.from_document(session_id, facts)


def latest(conn: Connection, limit: int) -> list[Session]:
    """List the sessions that had news last, newest first."""
    found = conn.execute(
        select(sessions.c.session_id, sessions.c.facts).order_by(sessions.c.updated_at.desc()).limit(limit)
    )
    return [Session.from_document(session_id, facts) for session_id, facts in found]


def _known(conn: Connection, session_ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for some in chunks(session_ids):
        found.update(conn.scalars(select(sessions.c.session_id).where(sessions.c.session_id.in_(some))))
    return found


def _insert(conn: Connection, folds: Mapping[str, Fold], now: datetime) -> dict[str, Session]:
    """Insert the new ones; those of which nothing is known even then get no row."""
    fresh: dict[str, Session] = {}
    unknown: dict[str, Session] = {}
    for key in sorted(folds):
        empty = Session.empty(key)
        session = folds[key](empty)
        (unknown if session == empty else fresh)[key] = session
    if not fresh:
        return unknown
    statement = insert_into(conn, sessions).on_conflict_do_nothing().returning(sessions.c.session_id)
    inserted = conn.scalars(statement, [_row(session, now) for session in fresh.values()])
    return unknown | {key: fresh[key] for key in inserted}


def _locked(conn: Connection, session_ids: Sequence[str]) -> dict[str, Session]:
    found: dict[str, Session] = {}
    for some in chunks(session_ids):
        rows = conn.execute(
            select(sessions.c.session_id, sessions.c.facts)
            .where(sessions.c.session_id.in_(some))
            .order_by(sessions.c.session_id)
            .with_for_update()
        )
        found.update({key: Session.from_document(key, facts) for key, facts in rows})
    return found


def _update(conn: Connection, changed: Sequence[Session], now: datetime) -> None:
    if not changed:
        return
    statement = insert_into(conn, sessions)
    columns = {column.name: statement.excluded[column.name] for column in sessions.c if not column.primary_key}
    conn.execute(
        statement.on_conflict_do_update(index_elements=[sessions.c.session_id], set_=columns),
        [_row(session, now) for session in changed],
    )


def _row(session: Session, now: datetime) -> dict[str, Any]:
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
