"""Fee warnings for a person: one for each fee notice, whether its driver was warned in time, and whether it helped."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, or_, select, union

from handlers.kit.statuses import FINAL_STATUSES
from ingest.errors import Unreadable
from ingest.events import SessionFeeIncurring, decode
from ingest.wire.envelope import Kind
from workers.ledger.database.conditions import Position, Unindexed, matching, older_than, same_person, within
from workers.ledger.dead_runs import type_of
from workers.ledger.deliveries import is_event
from workers.ledger.states import DeliveryState, Outcome, PushState
from workers.ledger.tables.core_tables import deliveries, pushes, runs, sessions

HANDLER = "warn_the_driver"
"""The name of the handler in `handlers.fee_warning`, which a team may have removed."""

TOO_LATE = "too late"
"""How the handler's reason begins if the notice came, or was handled, after the time to warn."""

FETCH_SIZE = 1000

IS_FEE_NOTICE = is_event(SessionFeeIncurring.wire_name)
# Where the sessions are known, the few deliveries of these are looked at, and not all fee notices.
IS_FEE_NOTICE_OF_SESSION = Unindexed(deliveries.c.event) == SessionFeeIncurring.wire_name


class WarningOutcome(StrEnum):
    """What became of a fee warning."""

    SENT = "sent"
    """Taken by a channel before the fee starts."""

    LATE = "late"
    """Too late to warn, or to send in time."""

    MOOT = "moot"
    """Nobody to tell, or nothing to tell any more."""

    DEAD = "dead"
    """Given up."""

    WAITING = "waiting"
    """Not sent yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningFilters:
    """Which warnings to find; all that is set must match. The times are those at which the notices were received."""

    since: datetime | None = None
    until: datetime | None = None
    user_id: str | None = None
    """In any case."""
    session_id: str | None = None

    @property
    def is_of_all(self) -> bool:
        """Whether the notices of all sessions may match."""
        return self.user_id is None and self.session_id is None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeWarningRow:
    """A fee notice, and what its driver heard of it and when."""

    delivery_id: str
    """The notice."""
    session_id: str | None
    user_id: str | None
    fee_type: str | None
    fee_will_apply_from: datetime | None
    received_at: datetime
    sent_at: datetime | None
    outcome: WarningOutcome
    reason: str | None
    session_ended_at: datetime | None
    fee_avoided: bool | None
    """Whether the session ended before the fee started; None while that is open."""

    @property
    def lead_seconds(self) -> float | None:
        """How long before the fee's start it was sent; negative after it."""
        if self.sent_at is None or self.fee_will_apply_from is None:
            return None
        return round((self.fee_will_apply_from - self.sent_at).total_seconds(), 3)


def find(
    conn: Connection, filters: WarningFilters, now: datetime, before: Position | None = None
) -> Iterator[FeeWarningRow]:
    """Yield the warnings, newest notice first; one for each user, if the session's driver has changed.

    Those of the notices behind a position are the next page.
    """
    behind = older_than(deliveries.c.received_at, deliveries.c.id, before)
    rows = conn.execute(_select(filters).where(*behind), execution_options={"yield_per": FETCH_SIZE})
    for _, of_delivery in groupby(rows, key=lambda row: row.id):
        of_users = sorted(of_delivery, key=lambda row: (row.pushed_to or "", row.push_id or ""))
        for _, of_user in groupby(of_users, key=lambda row: row.pushed_to):
            yield _warning(list(of_user), now)


def _select(filters: WarningFilters) -> Select[Any]:
    joined = (
        deliveries.outerjoin(runs, and_(runs.c.delivery_id == deliveries.c.id, runs.c.handler == HANDLER))
        .outerjoin(sessions, sessions.c.session_id == deliveries.c.session_id)
        .outerjoin(
            pushes,
            and_(
                pushes.c.session_id == deliveries.c.session_id,
                pushes.c.delivery_id == deliveries.c.id,
                pushes.c.handler == HANDLER,
            ),
        )
    )
    query = (
        select(
            *(deliveries.c.id, deliveries.c.session_id, deliveries.c.received_at, deliveries.c.kind),
            *(deliveries.c.body, deliveries.c.state, deliveries.c.reason),
            *(runs.c.outcome, runs.c.reason.label("run_reason"), runs.c.error.label("run_error")),
            *(sessions.c.user_id, sessions.c.status, sessions.c.stopped_at, sessions.c.completed_at),
            sessions.c.facts["statuses", "START_FAILED", "last_at"].as_string().label("start_failed_at"),
            pushes.c.id.label("push_id"),
            pushes.c.user_id.label("pushed_to"),
            pushes.c.state.label("push_state"),
            pushes.c.sent_at,
            pushes.c.error.label("push_error"),
            pushes.c.payload,
        )
        .select_from(joined)
        .where(IS_FEE_NOTICE if filters.is_of_all else IS_FEE_NOTICE_OF_SESSION)
        .where(*within(deliveries.c.received_at, filters.since, filters.until))
        .where(*matching(deliveries, session_id=filters.session_id))
        .order_by(deliveries.c.received_at.desc(), deliveries.c.id)
    )
    if filters.user_id is None:
        return query
    is_theirs = same_person(sessions.c.user_id, filters.user_id)
    was_theirs = same_person(pushes.c.user_id, filters.user_id)
    of_user = union(select(sessions.c.session_id).where(is_theirs), select(pushes.c.session_id).where(was_theirs))
    return query.where(deliveries.c.session_id.in_(of_user), or_(was_theirs, and_(pushes.c.id.is_(None), is_theirs)))


def _warning(rows: list[Row[Any]], now: datetime) -> FeeWarningRow:
    """Return the warning of one user; the rows differ in their pushes only, one for each channel."""
    first = rows[0]
    fee_type, starts_at = _fee(first)
    outcome, reason = _outcome_of_pushes(rows, starts_at) if first.push_id else _outcome_of_run(first)
    ended_at = _ended_at(first)
    is_known = starts_at is not None and (ended_at is not None or now >= starts_at) and first.status is not None
    return FeeWarningRow(
        delivery_id=first.id,
        session_id=first.session_id,
        user_id=first.pushed_to or first.user_id,
        fee_type=fee_type,
        fee_will_apply_from=starts_at,
        received_at=first.received_at,
        sent_at=min((row.sent_at for row in rows if row.sent_at is not None), default=None),
        outcome=outcome,
        reason=reason,
        session_ended_at=ended_at,
        fee_avoided=ended_at is not None and starts_at is not None and ended_at < starts_at if is_known else None,
    )


def _fee(row: Row[Any]) -> tuple[str | None, datetime | None]:
    """Return the fee's type and start: from the push if there is one, since decoding the notice takes long."""
    with suppress(KeyError, ValueError, TypeError):  # a push of another version, or none
        return row.payload["fee_type"], datetime.fromisoformat(row.payload["fee_will_apply_from"])
    event = None
    with suppress(Unreadable):  # a body may have been erased since
        event = decode(Kind(row.kind), row.body) if row.body else None
    return (event.fee_type, event.fee_will_apply_from) if isinstance(event, SessionFeeIncurring) else (None, None)


def _outcome_of_pushes(rows: Iterable[Row[Any]], starts_at: datetime | None) -> tuple[WarningOutcome, str | None]:
    by_state = {row.push_state: row for row in rows}
    sent_at = min((row.sent_at for row in rows if row.push_state is PushState.SENT), default=None)
    if sent_at is not None:
        is_late = starts_at is not None and sent_at >= starts_at
        return (WarningOutcome.LATE, "sent after the fee had started") if is_late else (WarningOutcome.SENT, None)
    for state, outcome, reason in (
        (PushState.WAITING, WarningOutcome.WAITING, "to be sent"),
        (PushState.EXPIRED, WarningOutcome.LATE, "its time had passed before it could be sent"),
        (PushState.DEAD, WarningOutcome.DEAD, "the channel refused it"),
        (PushState.MOOT, WarningOutcome.MOOT, "not needed any more"),
    ):
        if state in by_state:
            return outcome, by_state[state].push_error or reason
    raise LookupError("a push without a state")


def _outcome_of_run(row: Row[Any]) -> tuple[WarningOutcome, str | None]:
    # The message of an error may name the driver, whom this list masks.
    reason = type_of(row.run_error) if row.run_error else row.run_reason
    if row.outcome is None and row.state is DeliveryState.UNREADABLE:
        return WarningOutcome.DEAD, row.reason
    if row.outcome is None and row.state in {DeliveryState.SETTLED, DeliveryState.DEAD}:
        return WarningOutcome.MOOT, "no handler warns of it"
    if row.outcome is Outcome.DONE:
        return WarningOutcome.MOOT, "an earlier notice has said the same"
    if row.outcome is Outcome.MOOT:
        is_late = (reason or "").startswith(TOO_LATE)
        return WarningOutcome.LATE if is_late else WarningOutcome.MOOT, reason
    return WarningOutcome.DEAD if row.outcome is Outcome.DEAD else WarningOutcome.WAITING, reason


def _ended_at(row: Row[Any]) -> datetime | None:
    """Return when the session stopped, else when it was completed or could not be started; None while it runs."""
    if row.completed_at is None and row.status not in FINAL_STATUSES:
        return None
    ends: tuple[datetime | None, ...] = (row.stopped_at, row.completed_at)
    failed_at = datetime.fromisoformat(row.start_failed_at) if row.status == "START_FAILED" else None
    return min(filter(None, ends), default=failed_at)
