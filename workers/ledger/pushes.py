"""The pushes that handlers asked for: written with their run's outcome, then sent, each on every channel."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, update

from handlers.kit.context import Push
from workers.ledger.engine import chunks, insert_into
from workers.ledger.outcomes import PushState
from workers.ledger.tables import pushes


@dataclass(frozen=True, slots=True)
class NewPush:
    """A push as a run asked for it, on one channel."""

    delivery_id: str
    handler: str
    channel: str
    push: Push
    created_at: datetime

    @property
    def id(self) -> str:
        """The same push of the same run on the same channel has the same id, however often it is written."""
        parts = (self.delivery_id, self.handler, self.channel, self.push.collapse_key)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class PushRow:
    """A push as the ledger knows it."""

    id: str
    delivery_id: str
    handler: str
    session_id: str | None
    user_id: str
    channel: str
    state: PushState
    title: str
    body: str
    payload: dict[str, str]
    collapse_key: str
    idempotency_key: str | None
    expires_at: datetime | None
    created_at: datetime
    due_at: datetime | None
    sent_at: datetime | None
    attempts: int
    error: str | None


COLUMNS = [pushes.c[name] for name in PushRow.__dataclass_fields__]


def add(conn: Connection, rows: Sequence[NewPush]) -> set[str]:
    """Write pushes, due at once, and return the ids of those that were not there."""
    if not rows:
        return set()
    statement = insert_into(conn, pushes).on_conflict_do_nothing().returning(pushes.c.id)
    by_id = {row.id: row for row in rows}
    return set(conn.scalars(statement, [_row(by_id[key], key) for key in sorted(by_id)]))


def claimable(conn: Connection, now: datetime, *, limit: int | None = None) -> list[PushRow]:
    """List what is to be sent now, the longest due first."""
    query = select(*COLUMNS).where(pushes.c.due_at <= now).order_by(pushes.c.due_at).limit(limit)
    return [PushRow(*row) for row in conn.execute(query)]


def claim(conn: Connection, ids: Collection[str], now: datetime, span: timedelta) -> list[PushRow]:
    """Take pushes on for sending, their attempts raised; nobody else gets them before the span is over.

    A push whose time has passed is marked expired instead.
    """
    claimed: list[PushRow] = []
    for some in chunks(sorted(ids)):
        fitting = (
            select(pushes.c.id)
            .where(pushes.c.id.in_(some), pushes.c.due_at <= now)
            .order_by(pushes.c.id)
            .with_for_update(skip_locked=True)
            .correlate(None)
        )
        these = update(pushes).where(pushes.c.id.in_(fitting))
        conn.execute(these.where(pushes.c.expires_at <= now).values(state=PushState.EXPIRED, due_at=None))
        taken = conn.execute(these.values(due_at=now + span, attempts=pushes.c.attempts + 1).returning(*COLUMNS))
        claimed.extend(PushRow(*row) for row in taken)
    return sorted(claimed, key=lambda push: (push.created_at, push.id))


def mark(  # noqa: PLR0913 - the parts of an end, by name
    conn: Connection,
    push_id: str,
    state: PushState,
    *,
    attempt: int | None = None,
    sent_at: datetime | None = None,
    due_at: datetime | None = None,
    error: str | None = None,
) -> bool:
    """Say what became of a push; one that is waiting still must be due some time.

    With `attempt`, only if nobody has claimed the push since. What is no longer waiting stays as it is.
    """
    statement = update(pushes).where(pushes.c.id == push_id, pushes.c.state == PushState.WAITING)
    if attempt is not None:
        statement = statement.where(pushes.c.attempts == attempt)
    if (state is PushState.WAITING) is not (due_at is not None):
        raise ValueError("a push is due exactly while it is waiting")
    return conn.execute(statement.values(state=state, sent_at=sent_at, due_at=due_at, error=error)).rowcount == 1


def find(  # noqa: PLR0913 - what can be asked for, by name
    conn: Connection,
    *,
    session_id: str | None = None,
    user_id: str | None = None,
    state: PushState | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> list[PushRow]:
    """List pushes, newest first."""
    conditions: list[ColumnElement[bool]] = []
    if session_id is not None:
        conditions.append(pushes.c.session_id == session_id)
    if user_id is not None:
        conditions.append(pushes.c.user_id == user_id)
    if state is not None:
        conditions.append(pushes.c.state == state)
    if since is not None:
        conditions.append(pushes.c.created_at >= since)
    if until is not None:
        conditions.append(pushes.c.created_at < until)
    query = select(*COLUMNS).where(*conditions).order_by(pushes.c.created_at.desc(), pushes.c.id).limit(limit)
    return [PushRow(*row) for row in conn.execute(query)]


def _row(new: NewPush, push_id: str) -> dict[str, Any]:
    push = new.push
    return {
        "id": push_id,
        "delivery_id": new.delivery_id,
        "handler": new.handler,
        "session_id": push.session_id,
        "user_id": push.user_id,
        "channel": new.channel,
        "state": PushState.WAITING,
        "title": push.title,
        "body": push.body,
        "payload": dict(push.payload),
        "collapse_key": push.collapse_key,
        "idempotency_key": push.idempotency_key,
        "expires_at": push.expires_at,
        "created_at": new.created_at,
        "due_at": new.created_at,
        "sent_at": None,
        "attempts": 0,
        "error": None,
    }
