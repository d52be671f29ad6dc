"""Pushes of handlers: inserted with their run's outcome, then sent, one a channel (a transactional outbox)."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import Connection, Select, bindparam, exists, func, select, tuple_, update

from handlers.kit.context import Push
from handlers.kit.session import Session
from handlers.kit.statuses import FINAL_STATUSES
from ingest.errors import Unreadable
from ingest.events import SessionEvent, decode
from ingest.wire.envelope import Kind
from workers.ledger.database.conditions import in_list, matching, same_person, within
from workers.ledger.database.engine import insert_into
from workers.ledger.states import PushState
from workers.ledger.tables.core_tables import deliveries, pushes, sessions

#: A push's id, and the number of its attempt.
Claim: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class NewPush:
    """A push of a run, on one channel."""

    delivery_id: str
    handler: str
    channel: str
    push: Push
    created_at: datetime

    @property
    def id(self) -> str:
        """The same for the same push of the same run on the same channel, however often it is inserted."""
        parts = (self.delivery_id, self.handler, self.channel, self.push.collapse_key, self.push.user_id)
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
    told: dict[str, bool] | None
    """Finished devices, by fingerprint: whether each has taken it."""

    @property
    def claim(self) -> Claim:
        """The claim of its current attempt."""
        return self.id, self.attempts


COLUMNS = [pushes.c[name] for name in PushRow.__dataclass_fields__]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushUpdate:
    """What became of a push in the attempt for which it was claimed."""

    id: str
    attempt: int
    state: PushState
    sent_at: datetime | None = None
    due_at: datetime | None = None
    error: str | None = None
    told: Mapping[str, bool] | None = None
    """None leaves it unchanged."""

    def __post_init__(self) -> None:
        """Raise ValueError for a waiting push that is never due, or a due one that does not wait."""
        if (self.state is PushState.WAITING) is not (self.due_at is not None):
            raise ValueError("a push is due exactly while it is waiting")


# An UPDATE of a push in the attempt for which it was claimed. SQLAlchemy reserves the names of columns for their new
# values, so the parameters have others.
OF_CLAIM = (
    update(pushes)
    .where(pushes.c.id == bindparam("push_id"), pushes.c.attempts == bindparam("attempt"))
    .where(pushes.c.state == PushState.WAITING)
)
CHANGED = ("state", "sent_at", "due_at", "error")
RENEW = OF_CLAIM.values(due_at=bindparam("new_due_at"))
UPDATE = OF_CLAIM.values(
    **{name: bindparam(f"new_{name}") for name in CHANGED},
    told=func.coalesce(bindparam("new_told", type_=pushes.c.told.type), pushes.c.told),
)


def insert(conn: Connection, rows: Sequence[NewPush]) -> set[str]:
    """Insert pushes, due at once, and return the ids of the new ones."""
    if not rows:
        return set()
    statement = insert_into(conn, pushes).on_conflict_do_nothing().returning(pushes.c.id)
    by_id = {row.id: row for row in rows}
    return set(conn.scalars(statement, [_row(by_id[key]) for key in sorted(by_id)]))


def is_any_due(conn: Connection, channel: str, now: datetime) -> bool:
    """Return whether a push of a channel is due; cheaper than a claim of nothing."""
    query = select(pushes.c.id).where(pushes.c.due_at <= now, pushes.c.channel == channel).limit(1)
    return conn.execute(query).first() is not None


def expire_unneeded(conn: Connection, channel: str, now: datetime) -> Counter[PushState]:
    """End due pushes of a channel that need not be sent any more, each with the reason; count them by state."""
    ended: Counter[PushState] = Counter()
    newer = pushes.alias("newer")
    is_replaced = exists().where(
        newer.c.channel == pushes.c.channel,
        newer.c.user_id == pushes.c.user_id,
        newer.c.collapse_key == pushes.c.collapse_key,
        tuple_(newer.c.created_at, newer.c.id) > tuple_(pushes.c.created_at, pushes.c.id),
    )
    for condition, state, reason in (
        (in_list(pushes.c.id, _over(conn, channel, now)), PushState.MOOT, "the session is over"),
        (is_replaced, PushState.MOOT, "a newer push has taken its place"),
        (pushes.c.expires_at <= now, PushState.EXPIRED, None),
    ):
        due = select(pushes.c.id).where(pushes.c.due_at <= now, pushes.c.channel == channel, condition)
        values = {"state": state, "due_at": None, "error": func.coalesce(reason, pushes.c.error)}
        ended[state] += conn.execute(update(pushes).where(pushes.c.id.in_(_locked(due))).values(values)).rowcount
    return ended


def expire_unknown_channels(conn: Connection, channels: Collection[str], before: datetime) -> int:
    """End pushes, due before that time, of channels that PUSH does not name any more; return how many."""
    due = select(pushes.c.id).where(pushes.c.due_at <= before, pushes.c.channel.not_in(channels))
    values = {"state": PushState.DEAD, "due_at": None, "error": "PUSH does not name the channel any more"}
    return conn.execute(update(pushes).where(pushes.c.id.in_(_locked(due))).values(values)).rowcount


def claim(conn: Connection, channel: str, now: datetime, span: timedelta, *, limit: int) -> list[PushRow]:
    """Claim due pushes of a channel for the span, the longest due first, with their attempts raised."""
    if limit <= 0:
        return []
    due = select(pushes.c.id).where(pushes.c.due_at <= now, pushes.c.channel == channel)
    some = _locked(due.order_by(pushes.c.due_at).limit(limit))
    claiming = update(pushes).where(pushes.c.id.in_(some))
    claimed = conn.execute(claiming.values(due_at=now + span, attempts=pushes.c.attempts + 1).returning(*COLUMNS))
    return sorted((PushRow(*row) for row in claimed), key=lambda push: (push.created_at, push.id))


def extend_lease(conn: Connection, claims: Collection[Claim], until: datetime) -> None:
    """Renew claims until then. A push that waits no longer, or was claimed again since, stays unchanged."""
    values = [{"push_id": push_id, "attempt": attempt, "new_due_at": until} for push_id, attempt in sorted(claims)]
    if values:
        conn.execute(RENEW, values)


def mark(conn: Connection, updates: Sequence[PushUpdate]) -> None:
    """Record what became of pushes. A push that waits no longer, or was claimed again since, stays unchanged."""
    if updates:
        # In the order of keys, so that two clocks never deadlock.
        conn.execute(UPDATE, [_values(each) for each in sorted(updates, key=lambda each: each.id)])


def find(  # noqa: PLR0913 - filters, by name
    conn: Connection,
    *,
    session_id: str | None = None,
    person: str | None = None,
    state: PushState | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> list[PushRow]:
    """List pushes, newest first; `person` is a user's id in any case."""
    conditions = within(pushes.c.created_at, since, until)
    conditions += matching(pushes, session_id=session_id, state=state)
    if person is not None:
        conditions.append(same_person(pushes.c.user_id, person))
    query = select(*COLUMNS).where(*conditions).order_by(pushes.c.created_at.desc(), pushes.c.id).limit(limit)
    return [PushRow(*row) for row in conn.execute(query)]


def _over(conn: Connection, channel: str, now: datetime) -> list[str]:
    """Return the due pushes of a channel whose session is over for the event of their run."""
    query = (
        select(pushes.c.id, deliveries.c.kind, deliveries.c.body, sessions.c.session_id, sessions.c.facts)
        .join(sessions, sessions.c.session_id == pushes.c.session_id)
        .outerjoin(deliveries, deliveries.c.id == pushes.c.delivery_id)
        .where(sessions.c.status.in_(FINAL_STATUSES) | sessions.c.completed_at.is_not(None))
        .where(pushes.c.due_at <= now, pushes.c.channel == channel)
    )
    over = []
    for push_id, kind, body, *document in conn.execute(query):
        event = None
        with suppress(Unreadable):  # a body may have been erased since
            event = decode(Kind(kind), body) if body else None
        session = Session.from_document(*document)
        if session.is_over_for(event.at) if isinstance(event, SessionEvent) else session.is_over:
            over.append(push_id)
    return over


def _locked(query: Select[tuple[str]]) -> Select[tuple[str]]:
    """Lock the rows; leave out those that another transaction has locked."""
    return query.with_for_update(skip_locked=True).correlate(None)


def _values(update: PushUpdate) -> dict[str, Any]:
    changes: dict[str, Any] = {f"new_{name}": getattr(update, name) for name in CHANGED}
    told = None if update.told is None else dict(update.told)
    return {"push_id": update.id, "attempt": update.attempt, "new_told": told, **changes}


def _row(new: NewPush) -> dict[str, Any]:
    push = {name: getattr(new.push, name) for name in Push.__dataclass_fields__}
    return {
        **push,
        "payload": dict(new.push.payload),
        "id": new.id,
        "delivery_id": new.delivery_id,
        "handler": new.handler,
        "channel": new.channel,
        "state": PushState.WAITING,
        "created_at": new.created_at,
        "due_at": new.created_at,
        "attempts": 0,
    }
