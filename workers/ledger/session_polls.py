"""Polls of sessions at the Drive API: which sessions are due, when, and what the last poll came to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy import Connection, and_, bindparam, case, func, literal, literal_column, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from handlers.kit.column_types import UtcDateTime
from ingest.backoff import Backoff
from ingest.config.settings import Settings
from workers.ledger.database.conditions import in_list
from workers.ledger.database.engine import insert_into
from workers.ledger.tables.core_tables import sessions
from workers.ledger.tables.reconciliation_tables import PollOutcome, session_polls

STARTING = "WAITING_TO_START"
STARTS_WITHIN = timedelta(minutes=2)
"""How long Plugsurfing says that a session may take from WAITING_TO_START to STARTED."""

IS_INCOMPLETE = and_(
    sessions.c.user_id.is_not(None),
    or_(
        sessions.c.status.is_(None),
        sessions.c.status != "COMPLETE",
        sessions.c.started_at.is_(None),
        sessions.c.stopped_at.is_(None),
    ),
)
"""A session's start, stop or completion is unknown; its user is known, so it can be polled."""

SILENT_SINCE = literal_column("excluded.next_at", UtcDateTime)
"""In a conflicting row: when the session of the row to be inserted had its last news."""


@dataclass(frozen=True)
class PollSchedule:
    """How long to wait: after the last news, between two polls, and altogether."""

    after: timedelta
    longest: timedelta
    give_up_after: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the schedule of the settings."""
        return cls(settings.reconcile_after, settings.reconcile_longest, settings.reconcile_for)

    def delay(self, polls: int, status: str | None = None) -> timedelta:
        """Return how long to wait after so many polls in a row without news; it doubles."""
        first = min(self.after, STARTS_WITHIN) if status == STARTING else self.after
        return Backoff(first, max(self.longest, first)).delay(polls + 1, jitter=0)


@dataclass(frozen=True, slots=True)
class DuePoll:
    """A claimed session that is to be polled now."""

    session_id: str
    user_id: str
    attempts: int
    claimed_until: datetime
    """Until then it is the claimer's; and afterwards, as long as nobody else has claimed it."""


@dataclass(frozen=True, slots=True)
class PollState:
    """The answers of the Drive API about a session so far."""

    outcome: PollOutcome
    attempts: int
    read_at: datetime | None = None
    status: str | None = None
    status_at: datetime | None = None
    next_at: datetime | None = None
    reason: str | None = None


def schedule(conn: Connection, since: datetime, until: datetime, now: datetime) -> int:
    """Schedule incomplete sessions with their last news after `since` and by `until`, the longest silent first.

    Those that wait already, or are complete in the Drive API, stay unchanged. Returns how many are new.
    """
    silent = and_(sessions.c.updated_at > since, sessions.c.updated_at <= until)
    # A session put aside comes back for news only, and not because a clock was restarted.
    has_news = func.coalesce(session_polls.c.read_at, session_polls.c.enrolled_at) < SILENT_SINCE
    return _schedule(conn, silent, sessions.c.updated_at, now, again=and_(session_polls.c.next_at.is_(None), has_news))


def schedule_now(conn: Connection, since: datetime, until: datetime, now: datetime) -> int:
    """Make the incomplete sessions of a downtime due now: their events may have come while we were down."""
    between = and_(sessions.c.updated_at >= since, sessions.c.updated_at <= until)
    is_later = or_(session_polls.c.next_at.is_(None), session_polls.c.next_at > now)
    return _schedule(conn, between, literal(now, UtcDateTime), now, again=is_later)


def claim(conn: Connection, now: datetime, lease: timedelta, limit: int, schedule: PollSchedule) -> list[DuePoll]:
    """Claim due sessions for the span of the lease, the longest due first.

    Those that are complete by now, had news or were polled for long enough are put aside instead.
    """
    is_incomplete = case((IS_INCOMPLETE, 1), else_=0).label("is_incomplete")
    found = conn.execute(
        select(session_polls, sessions.c.user_id, sessions.c.updated_at, is_incomplete)
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
        polled_at = max(filter(None, (row.enrolled_at, row.read_at)))
        if not row.is_incomplete:
            put_aside[PollOutcome.NOT_NEEDED].append(row.session_id)
        elif row.enrolled_at + schedule.give_up_after <= now:
            put_aside[PollOutcome.GIVEN_UP].append(row.session_id)
        elif row.updated_at > polled_at and row.updated_at + schedule.after > now:
            had_news.append({"of": row.session_id, "later": row.updated_at + schedule.after})
        else:
            claimed.append(DuePoll(row.session_id, row.user_id, row.attempts, now + lease))
    for outcome, ids in put_aside.items():
        _set(conn, ids, next_at=None, outcome=outcome)
    if had_news:
        later = update(session_polls).where(session_polls.c.session_id == bindparam("of"))
        conn.execute(later.values(next_at=bindparam("later")), had_news)
    _set(conn, [due.session_id for due in claimed], next_at=now + lease)
    return claimed


def renew(conn: Connection, due: DuePoll, until: datetime) -> DuePoll | None:
    """Renew a claim; return None if somebody else has claimed the session since."""
    mine = update(session_polls).where(
        session_polls.c.session_id == due.session_id, session_polls.c.next_at == due.claimed_until
    )
    return replace(due, claimed_until=until) if conn.execute(mine.values(next_at=until)).rowcount else None


def release(conn: Connection, claimed: Sequence[DuePoll], now: datetime) -> None:
    """Release claimed sessions that were not polled, except those that somebody else has claimed since."""
    if claimed:
        mine = and_(session_polls.c.session_id == bindparam("of"), session_polls.c.next_at == bindparam("until"))
        # In the order of keys, so that two clocks never deadlock.
        ordered = sorted(claimed, key=lambda due: due.session_id)
        values = [{"of": due.session_id, "until": due.claimed_until} for due in ordered]
        conn.execute(update(session_polls).where(mine).values(next_at=now), values)


def states(conn: Connection, session_ids: Collection[str]) -> dict[str, PollState]:
    """Return the state of each of these sessions that was ever scheduled or recorded."""
    columns = [session_polls.c[name] for name in PollState.__dataclass_fields__]
    query = select(session_polls.c.session_id, *columns).where(in_list(session_polls.c.session_id, session_ids))
    return {session_id: PollState(*state) for session_id, *state in conn.execute(query)}


def record(conn: Connection, seen: Mapping[str, PollState], now: datetime) -> None:
    """Record states, in place of earlier ones."""
    if not seen:
        return
    rows = [{"session_id": key, "enrolled_at": now, **asdict(state)} for key, state in sorted(seen.items())]
    new = insert_into(conn, session_polls)
    changes = {name: new.excluded[name] for name in PollState.__dataclass_fields__}
    conn.execute(new.on_conflict_do_update(index_elements=[session_polls.c.session_id], set_=changes), rows)


def _schedule(
    conn: Connection,
    which: ColumnElement[bool],
    next_at: ColumnElement[Any],
    now: datetime,
    *,
    again: ColumnElement[bool],
) -> int:
    new: dict[str, ColumnElement[Any]] = {
        "outcome": literal(PollOutcome.WAITING.value),
        "enrolled_at": literal(now, UtcDateTime),
        "next_at": next_at,
        "attempts": literal(0),
    }
    # In the order of keys, so that two clocks never deadlock.
    wanted = select(sessions.c.session_id, *(value.label(name) for name, value in new.items()))
    insert = insert_into(conn, session_polls).from_select(
        ["session_id", *new], wanted.where(which, IS_INCOMPLETE).order_by(sessions.c.session_id)
    )
    upsert = insert.on_conflict_do_update(
        index_elements=[session_polls.c.session_id],
        set_={name: insert.excluded[name] for name in new},
        where=and_(again, session_polls.c.outcome != PollOutcome.COMPLETE),
    )
    # SQLAlchemy keeps the row count of an INSERT only when told to: https://docs.sqlalchemy.org/en/21/core/connections.html
    return conn.execute(upsert, execution_options={"preserve_rowcount": True}).rowcount


def _set(conn: Connection, session_ids: Collection[str], **values: object) -> None:
    if session_ids:
        conn.execute(update(session_polls).where(in_list(session_polls.c.session_id, session_ids)).values(**values))
