"""Pushes of handlers: inserted with their run's outcome, then sent, one a channel (a transactional outbox)."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Tuple,
    and_,
    bindparam,
    case,
    exists,
    func,
    not_,
    or_,
    select,
    tuple_,
    update,
)

from handlers.kit.context import Push
from handlers.kit.session import Session
from handlers.kit.statuses import FINAL_STATUSES
from workers.ledger.database.conditions import Position, Unindexed, in_list, matching, older_than, same_person, within
from workers.ledger.database.engine import insert_into
from workers.ledger.states import PushState
from workers.ledger.tables.core_tables import pushes, sessions

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
    event_at: datetime | None = None
    """The time of the session's event that it follows from."""

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
    event_at: datetime | None
    even_if_over: bool
    created_at: datetime
    due_at: datetime | None
    sent_at: datetime | None
    """When the first device had it; it may wait for others."""
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
CHANGED = ("state", "due_at", "error")
RENEW = OF_CLAIM.values(due_at=bindparam("new_due_at"))
UPDATE = OF_CLAIM.values(
    **{name: bindparam(f"new_{name}") for name in CHANGED},
    sent_at=func.coalesce(pushes.c.sent_at, bindparam("new_sent_at", type_=pushes.c.sent_at.type)),
    told=func.coalesce(bindparam("new_told", type_=pushes.c.told.type), pushes.c.told),
)


GIVEN_UP = (PushState.DEAD, PushState.EXPIRED, PushState.MOOT)
"""The states of a push that was not sent. It is sent after all if a later run makes it again."""

# What a later run says of a push that exists: its newest words and times.
REVIVED = ("title", "body", "payload", "expires_at", "event_at", "even_if_over", "due_at")
SAME = or_(
    pushes.c.id == bindparam("push_id"),
    and_(
        pushes.c.channel == bindparam("of_channel"),
        pushes.c.user_id == bindparam("of_user"),
        pushes.c.idempotency_key == bindparam("of_key"),
    ),
)
REVIVE = (
    update(pushes)
    .where(SAME, pushes.c.state.in_(GIVEN_UP))
    .values(
        state=PushState.WAITING,
        error=None,
        **{name: bindparam(f"new_{name}", type_=pushes.c[name].type) for name in REVIVED},
    )
    .returning(pushes.c.id)
)
POSTDATE = (
    update(pushes)
    .where(SAME, pushes.c.state == PushState.WAITING)
    .where(pushes.c.event_at < bindparam("new_event_at", type_=pushes.c.event_at.type))
    .values(event_at=bindparam("new_event_at", type_=pushes.c.event_at.type))
)


def insert(conn: Connection, rows: Sequence[NewPush]) -> set[str]:
    """Insert pushes, due at once, and return the ids of those that are to be sent now and were not before.

    A push that exists is not sent again, unless it was given up. One that waits takes the time of the newer event, so
    that an end of the session before that does not cancel it.
    """
    if not rows:
        return set()
    statement = insert_into(conn, pushes).on_conflict_do_nothing().returning(pushes.c.id)
    by_id = {row.id: row for row in rows}
    inserted = set(conn.scalars(statement, [_row(by_id[key]) for key in sorted(by_id)]))
    for key in sorted(by_id.keys() - inserted):
        values = _revival(by_id[key])
        inserted.update(conn.scalars(REVIVE, values))
        if by_id[key].event_at is not None:
            conn.execute(POSTDATE, {name: values[name] for name in (*OF_SAME, "new_event_at")})
    return inserted


def _is_due(channel: str, now: datetime) -> ColumnElement[bool]:
    """Build the condition that a push of a channel is due: it is found among those that are, which are few."""
    return and_(pushes.c.due_at <= now, Unindexed(pushes.c.channel) == channel)


def is_any_due(conn: Connection, channel: str, now: datetime) -> bool:
    """Return whether a push of a channel is due; cheaper than a claim of nothing."""
    query = select(pushes.c.id).where(_is_due(channel, now)).limit(1)
    return conn.execute(query).first() is not None


def expire_unneeded(conn: Connection, channel: str, now: datetime) -> Counter[PushState]:
    """End due pushes of a channel that need not be sent any more, each with the reason; count them by state.

    One that was sent to some of the user's devices, and waited for the others, ends as sent.
    """
    ended: Counter[PushState] = Counter()
    is_due = _is_due(channel, now)
    was_sent = pushes.c.sent_at.is_not(None)
    for condition, state, reason in _unneeded(conn, now, is_due):
        due = select(pushes.c.id).where(is_due, condition)
        values = {
            "state": case((was_sent, PushState.SENT), else_=state),
            "due_at": None,
            "error": func.coalesce(case((was_sent, None), else_=reason), pushes.c.error),
        }
        statement = update(pushes).where(pushes.c.id.in_(_locked(due))).values(values)
        ended.update(conn.scalars(statement.returning(pushes.c.state)))
    return ended


def _unneeded(
    conn: Connection, now: datetime, *among: ColumnElement[bool]
) -> list[tuple[ColumnElement[Any], PushState, str | None]]:
    """Return the conditions under which pushes of these need not be sent, each with the state and the reason."""
    newer = pushes.alias("newer")
    is_replaced = exists().where(
        newer.c.channel == pushes.c.channel,
        newer.c.user_id == pushes.c.user_id,
        newer.c.collapse_key == pushes.c.collapse_key,
        _order(newer) > _order(pushes),
    )
    return [
        (in_list(pushes.c.id, _over(conn, among)), PushState.MOOT, "the session is over"),
        (is_replaced, PushState.MOOT, "a newer push has taken its place"),
        (and_(pushes.c.expires_at.is_not(None), pushes.c.expires_at <= now), PushState.EXPIRED, None),
    ]


def expire_unknown_channels(conn: Connection, channels: Collection[str], before: datetime) -> int:
    """End pushes, due before that time, of channels that PUSH does not name any more; return how many."""
    due = select(pushes.c.id).where(pushes.c.due_at <= before, pushes.c.channel.not_in(channels))
    reason = "PUSH does not name the channel any more"
    values = {"state": PushState.DEAD, "due_at": None, "error": reason}
    return conn.execute(update(pushes).where(pushes.c.id.in_(_locked(due))).values(values)).rowcount


def claim(  # noqa: PLR0913 - the limits, by name
    conn: Connection,
    channel: str,
    now: datetime,
    span: timedelta,
    *,
    limit: int,
    failing: int | None = None,
    attempts: int = 1,
) -> list[PushRow]:
    """Claim due pushes of a channel for the span, those that expire first in front, with their attempts raised.

    Those of them that need not be sent any more are left to `expire_unneeded`.

    Pushes with so many attempts are failing: at most `failing` of them are claimed, and the others go first, but for a
    fifth of the limit.
    """
    if limit <= 0:
        return []
    is_failing = pushes.c.attempts >= attempts
    retried = _due(conn, channel, now, is_failing, limit if failing is None else min(failing, limit))
    others = _due(conn, channel, now, not_(is_failing), limit)
    share = max(len(retried[: -(-limit // 5)]), limit - len(others))
    chosen = [*retried[:share], *others][:limit]
    among = in_list(pushes.c.id, chosen)
    needless = or_(*(condition for condition, *_ in _unneeded(conn, now, among)))
    claiming = update(pushes).where(among, not_(needless))
    claimed = conn.execute(claiming.values(due_at=now + span, attempts=pushes.c.attempts + 1).returning(*COLUMNS))
    by_id = {row.id: PushRow(*row) for row in claimed}
    return [by_id[push_id] for push_id in chosen if push_id in by_id]


def _due(conn: Connection, channel: str, now: datetime, condition: ColumnElement[bool], limit: int) -> list[str]:
    """Return and lock the due pushes that expire first; those that never do are last."""
    if limit <= 0:
        return []
    due = select(pushes.c.id).where(_is_due(channel, now), condition)
    order = (pushes.c.expires_at.nulls_last(), pushes.c.attempts, pushes.c.created_at, pushes.c.id)
    return list(conn.scalars(_locked(due.order_by(*order).limit(limit))))


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
    channel: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: Position | None = None,
    limit: int | None = None,
) -> list[PushRow]:
    """List pushes, newest first; `person` is a user's id in any case. Those behind a position are the next page."""
    conditions = within(pushes.c.created_at, since, until) + older_than(pushes.c.created_at, pushes.c.id, before)
    conditions += matching(pushes, session_id=session_id, state=state, channel=channel)
    if person is not None:
        conditions.append(same_person(pushes.c.user_id, person))
    query = select(*COLUMNS).where(*conditions).order_by(pushes.c.created_at.desc(), pushes.c.id).limit(limit)
    return [PushRow(*row) for row in conn.execute(query)]


def get(conn: Connection, push_id: str) -> PushRow | None:
    """Return a push, or None if it is unknown."""
    row = conn.execute(select(*COLUMNS).where(pushes.c.id == push_id)).first()
    return None if row is None else PushRow(*row)


def _over(conn: Connection, is_due: Sequence[ColumnElement[bool]]) -> list[str]:
    """Return the due pushes that an end of their session cancels, and whose session is over for their event."""
    query = (
        select(pushes.c.id, pushes.c.event_at, sessions.c.session_id, sessions.c.facts)
        .join(sessions, sessions.c.session_id == pushes.c.session_id)
        .where(sessions.c.status.in_(FINAL_STATUSES) | sessions.c.completed_at.is_not(None))
        .where(not_(pushes.c.even_if_over), *is_due)
    )
    over = []
    for push_id, event_at, *document in conn.execute(query):
        session = Session.from_document(*document)
        if session.is_over if event_at is None else session.is_over_for(event_at):
            over.append(push_id)
    return over


def _order(table: FromClause) -> Tuple:
    """Order pushes of one collapse key: the last one is shown. The event's own time decides."""
    return tuple_(func.coalesce(table.c.event_at, table.c.created_at), table.c.created_at, table.c.id)


def _locked(query: Select[tuple[str]]) -> Select[tuple[str]]:
    """Lock the rows; leave out those that another transaction has locked."""
    return query.with_for_update(skip_locked=True).correlate(None)


def _values(update: PushUpdate) -> dict[str, Any]:
    changes: dict[str, Any] = {f"new_{name}": getattr(update, name) for name in CHANGED}
    told = None if update.told is None else dict(update.told)
    claim = {"push_id": update.id, "attempt": update.attempt}
    return {**claim, "new_sent_at": update.sent_at, "new_told": told, **changes}


OF_SAME = ("push_id", "of_channel", "of_user", "of_key")


def _revival(new: NewPush) -> dict[str, Any]:
    row = _row(new)
    same = (new.id, new.channel, new.push.user_id, new.push.idempotency_key)
    return {**dict(zip(OF_SAME, same, strict=True)), **{f"new_{name}": row[name] for name in REVIVED}}


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
        "event_at": new.event_at,
        "created_at": new.created_at,
        "due_at": new.created_at,
        "attempts": 0,
    }
