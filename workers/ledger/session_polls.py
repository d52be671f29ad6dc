"""Which sessions are to be read again at the Drive API, and when; what came of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, func, literal, literal_column, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from handlers.kit.column_types import UtcDateTime
from workers.ledger.database.engine import insert_into
from workers.ledger.database.in_list import in_list
from workers.ledger.poll_schedule import PollSchedule
from workers.ledger.tables.core import sessions
from workers.ledger.tables.reconciliation import PollOutcome, session_polls

IS_INCOMPLETE = and_(
    sessions.c.user_id.is_not(None),
    or_(
        sessions.c.status.is_(None),
        sessions.c.status != "COMPLETE",
        sessions.c.started_at.is_(None),
        sessions.c.stopped_at.is_(None),
    ),
)
"""Of a session's start, stop and completion something was not told; and its user is known, so it can be asked for."""

SILENT_SINCE = literal_column("excluded.next_at", UtcDateTime)
"""In a row that is already there: when the session of the row that was to be inserted had its last news."""


@dataclass(frozen=True, slots=True)
class DuePoll:
    """A session that is to be read now."""

    session_id: str
    user_id: str
    attempts: int
    claimed_until: datetime
    """It is the claimer's until then; and after that, as long as nobody else has wanted it."""


@dataclass(frozen=True, slots=True)
class PollState:
    """What the Drive API has said of a session so far."""

    outcome: PollOutcome
    attempts: int
    read_at: datetime | None = None
    status: str | None = None
    status_at: datetime | None = None
    next_at: datetime | None = None
    reason: str | None = None


def schedule(conn: Connection, since: datetime, until: datetime, now: datetime) -> int:
    """Have incomplete sessions read that had their last news after `since` and by `until`, the longest silent first.

    Those that wait already, or are complete in the Drive API, stay as they are. Returns how many are new.
    """
    silent = and_(sessions.c.updated_at > since, sessions.c.updated_at <= until)
    # What is put aside is taken up for news only, and not because a clock was started anew.
    has_news = func.coalesce(session_polls.c.read_at, session_polls.c.enrolled_at) < SILENT_SINCE
    return _enrol(conn, silent, sessions.c.updated_at, now, again=and_(session_polls.c.next_at.is_(None), has_news))


def schedule_now(conn: Connection, since: datetime, until: datetime, now: datetime) -> int:
    """Have the incomplete sessions of that time read now: what they waited for may have come to a closed door."""
    between = and_(sessions.c.updated_at >= since, sessions.c.updated_at <= until)
    is_later = or_(session_polls.c.next_at.is_(None), session_polls.c.next_at > now)
    return _enrol(conn, between, literal(now, UtcDateTime), now, again=is_later)


def claim(conn: Connection, now: datetime, lease: timedelta, limit: int, rhythm: PollSchedule) -> list[DuePoll]:
    """Take sessions whose time has come, the longest due first; nobody else gets them before the lease is over.

    Those that are complete meanwhile, had news or were asked about for long enough are put aside instead.
    """
    found = conn.execute(
        select(
            session_polls,
            sessions.c.user_id,
            sessions.c.updated_at,
            case((IS_INCOMPLETE, 1), else_=0).label("is_incomplete"),
        )
        .join_from(session_polls, sessions, sessions.c.session_id == session_polls.c.session_id, isouter=True)
        .where(session_polls.c.next_at <= now)
        .order_by(session_polls.c.next_at, session_polls.c.session_id)
        .limit(limit)
        .with_for_update(of=session_polls, skip_locked=True)
    ).all()
    put_aside: dict[PollOutcome, list[str]] = {PollOutcome.NOT_NEEDED: [], PollOutcome.GIVEN_UP: []}
    had_news: list[dict[str, Any]] = []
    claimed: list[DuePoll] = []
    for row in found:
        looked_at = max(filter(None, (row.enrolled_at, row.read_at)))
        if not row.is_incomplete:
            put_aside[PollOutcome.NOT_NEEDED].append(row.session_id)
        elif row.enrolled_at + rhythm.give_up_after <= now:
            put_aside[PollOutcome.GIVEN_UP].append(row.session_id)
        elif row.updated_at > looked_at and row.updated_at + rhythm.after > now:
            had_news.append({"of": row.session_id, "later": row.updated_at + rhythm.after})
        else:
            claimed.append(DuePoll(row.session_id, row.user_id, row.attempts, now + lease))
    for outcome, ids in put_aside.items():
        if ids:
            _set(conn, ids, next_at=None, outcome=outcome)
    if had_news:
        later = update(session_polls).where(session_polls.c.session_id == bindparam("of"))
        conn.execute(later.values(next_at=bindparam("later")), had_news)
    if claimed:
        _set(conn, [due.session_id for due in claimed], next_at=now + lease)
    return claimed


def renew(conn: Connection, due: DuePoll, until: datetime) -> DuePoll | None:
    """Keep what was claimed for longer; None if it is somebody else's by now."""
    mine = update(session_polls).where(
        session_polls.c.session_id == due.session_id, session_polls.c.next_at == due.claimed_until
    )
    return replace(due, claimed_until=until) if conn.execute(mine.values(next_at=until)).rowcount else None


def release(conn: Connection, claimed: Sequence[DuePoll], now: datetime) -> None:
    """Give back what was claimed and not read, unless it is somebody else's by now."""
    if claimed:
        mine = and_(session_polls.c.session_id == bindparam("of"), session_polls.c.next_at == bindparam("until"))
        # In the order of keys, so that two clocks never wait for each other in a circle.
        values = [{"of": due.session_id, "until": due.claimed_until} for due in sorted(claimed, key=_key)]
        conn.execute(update(session_polls).where(mine).values(next_at=now), values)


def looks(conn: Connection, session_ids: Collection[str]) -> dict[str, PollState]:
    """Say what was seen of these sessions so far."""
    found = conn.execute(select(session_polls).where(in_list(session_polls.c.session_id, session_ids)))
    return {
        row.session_id: PollState(
            row.outcome, row.attempts, row.read_at, row.status, row.status_at, row.next_at, row.reason
        )
        for row in found
    }


def record(conn: Connection, seen: Mapping[str, PollState], now: datetime) -> None:
    """Write down what was seen, in the place of what was seen before."""
    if not seen:
        return
    rows = [
        {
            "session_id": session_id,
            "enrolled_at": now,
            "outcome": look.outcome,
            "attempts": look.attempts,
            "read_at": look.read_at,
            "status": look.status,
            "status_at": look.status_at,
            "next_at": look.next_at,
            "reason": look.reason,
        }
        for session_id, look in sorted(seen.items())
    ]
    new = insert_into(conn, session_polls)
    changes = {name: new.excluded[name] for name in rows[0] if name not in {"session_id", "enrolled_at"}}
    conn.execute(new.on_conflict_do_update(index_elements=[session_polls.c.session_id], set_=changes), rows)


def _enrol(
    conn: Connection,
    which: ColumnElement[bool],
    next_at: ColumnElement[Any],
    now: datetime,
    *,
    again: ColumnElement[bool],
) -> int:
    wanted: Sequence[ColumnElement[Any]] = (
        sessions.c.session_id,
        literal(PollOutcome.WAITING.value).label("outcome"),
        literal(now, UtcDateTime).label("enrolled_at"),
        next_at.label("next_at"),
        literal(0).label("attempts"),
    )
    insert = insert_into(conn, session_polls).from_select(
        ["session_id", "outcome", "enrolled_at", "next_at", "attempts"],
        # In the order of keys, so that two clocks never wait for each other in a circle.
        select(*wanted).where(which, IS_INCOMPLETE).order_by(sessions.c.session_id),
    )
    anew = insert.on_conflict_do_update(
        index_elements=[session_polls.c.session_id],
        set_={name: insert.excluded[name] for name in ("outcome", "enrolled_at", "next_at", "attempts")},
        where=and_(again, session_polls.c.outcome != PollOutcome.COMPLETE),
    )
    return conn.execute(anew).rowcount


def _set(conn: Connection, session_ids: Collection[str], **values: object) -> None:
    conn.execute(update(session_polls).where(in_list(session_polls.c.session_id, session_ids)).values(**values))


def _key(due: DuePoll) -> str:
    return due.session_id
