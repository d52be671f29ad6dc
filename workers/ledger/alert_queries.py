"""Query what alert rules look at: open alerts, backlogs, sessions and CDRs that need a person, and traffic.

Each query is limited, and leaves out what an alert was raised for already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, literal, literal_column, or_, select

from handlers.kit.cdr_table import cdrs
from handlers.kit.statuses import FINAL_STATUSES
from ingest.queue.batch import DRIVE_API
from ingest.wire.envelope import Kind
from workers.ledger import downtimes
from workers.ledger.cdr_queries import CONTRADICTS_ITSELF, IN_CONFLICT, SHARES_SESSION
from workers.ledger.deliveries import has_state
from workers.ledger.downtimes import DowntimeRow
from workers.ledger.runs import handlers_of
from workers.ledger.states import DeliveryState
from workers.ledger.tables.alert_tables import alerts
from workers.ledger.tables.core_tables import IS_FAILING, IS_OPEN, deliveries, pushes, runs, sessions

LOOKBACK = timedelta(days=7)
"""What is older had its alert long ago, or is older than the ledger's first rule evaluation."""

MAX_FOUND = 500
"""New causes found by one evaluation; the next one finds more."""

MAX_COUNTED = 1000

# A request id may be that of a session, as with Plugsurfing's Roam.
SESSION_PREFIX = literal("session ")

IS_DEAD_PUSH = pushes.c.state == literal_column("'dead'")
IS_DEAD = runs.c.outcome == literal_column("'dead'")  # a literal, so that both databases use the partial index


@dataclass(frozen=True, slots=True)
class Backlog:
    """Deliveries or runs of one subject that wait for a person: their number, up to MAX_COUNTED, and the latest."""

    subject: str
    count: int
    last_at: datetime
    last_delivery: str


@dataclass(frozen=True, slots=True)
class FailingRuns:
    """Runs of a handler that have failed and will be tried again: their number, up to MAX_COUNTED, and one of them."""

    handler: str
    count: int
    since: datetime
    """When the first delivery of them was stored."""
    error: str
    """The type of the error."""
    delivery_id: str


@dataclass(frozen=True, slots=True)
class LatePushes:
    """Pushes of a channel that wait: their number, up to MAX_COUNTED together, and how many drivers' were tried."""

    channel: str
    count: int
    since: datetime
    """When the first of them was made."""
    failed_drivers: int
    failed_since: datetime
    """When the first was made that has failed."""
    error: str | None


@dataclass(frozen=True, slots=True)
class StaleSession:
    """A session without progress: `at` is when it reached its status, `known_at` when its last news came."""

    session_id: str
    status: str
    at: datetime
    known_at: datetime


@dataclass(frozen=True, slots=True)
class OddCdr:
    """A CDR that needs a person, and the subject of its alert."""

    subject: str
    identity: str
    delivery_id: str
    session_id: str | None
    recorded_at: datetime
    notes: Sequence[str]


def last_resolved_at(conn: Connection, kind: str, subject: str) -> datetime | None:
    """Return when the last alert of a kind about a subject was resolved."""
    about = (alerts.c.kind == kind, alerts.c.subject == subject)
    last: datetime | None = conn.scalar(select(func.max(alerts.c.resolved_at)).where(*about))
    return last


def open_subjects(conn: Connection, kind: str) -> set[str]:
    """Return the subjects of the open alerts of a kind."""
    return set(conn.scalars(_open_alerts(kind)))


def unreadable_backlog(conn: Connection, what: str, now: datetime, since: datetime | None) -> Backlog | None:
    """Count the unreadable deliveries of a kind of the last week, stored after `since`."""
    query = select(deliveries.c.id, deliveries.c.stored_at).where(
        has_state(DeliveryState.UNREADABLE),
        deliveries.c.received_at > now - LOOKBACK,
        deliveries.c.kind == what,
    )
    if since is not None:
        query = query.where(deliveries.c.stored_at > since)
    rows = conn.execute(query.order_by(deliveries.c.received_at.desc()).limit(MAX_COUNTED)).all()
    return Backlog(what, len(rows), max(row.stored_at for row in rows), rows[0].id) if rows else None


def handlers_of_dead(conn: Connection) -> list[str]:
    """List the handlers that have dead letters."""
    return handlers_of(conn, IS_DEAD)


def dead_letter_backlog(conn: Connection, handler: str, since: datetime | None) -> Backlog | None:
    """Count the dead letters of a handler that are newer than `since`."""
    query = select(runs.c.delivery_id, runs.c.finished_at).where(
        IS_DEAD, runs.c.handler == handler, runs.c.finished_at.is_not(None)
    )
    if since is not None:
        query = query.where(runs.c.finished_at > since)
    rows = conn.execute(query.order_by(runs.c.finished_at.desc()).limit(MAX_COUNTED)).all()
    return Backlog(handler, len(rows), rows[0].finished_at, rows[0].delivery_id) if rows else None


def failing_runs(conn: Connection) -> list[FailingRuns]:
    """List the handlers whose runs fail and are tried again, by a loose scan of the index."""
    found: list[FailingRuns] = []
    while True:
        query = select(func.min(runs.c.handler)).where(IS_FAILING)
        handler = conn.scalar(query.where(runs.c.handler > found[-1].handler) if found else query)
        if handler is None:
            return found
        failing = (
            select(runs.c.delivery_id, runs.c.error, deliveries.c.stored_at)
            .join(deliveries, deliveries.c.id == runs.c.delivery_id)
            .where(IS_FAILING, runs.c.handler == handler)
            .limit(MAX_COUNTED)
        )
        rows = conn.execute(failing).all()
        if not rows:  # they ended since
            return found
        oldest = min(rows, key=lambda row: row.stored_at)
        # Whatever follows the type of an error may be a body or a driver.
        error = oldest.error.partition(":")[0]
        found.append(FailingRuns(handler, len(rows), oldest.stored_at, error, oldest.delivery_id))


def late_pushes(conn: Connection, now: datetime) -> list[LatePushes]:
    """List the channels with pushes that wait, by the MAX_COUNTED pushes that have been due for the longest."""
    query = (
        select(pushes.c.channel, pushes.c.user_id, pushes.c.created_at, pushes.c.error)
        .where(pushes.c.due_at <= now + LOOKBACK, pushes.c.sent_at.is_(None))
        .order_by(pushes.c.due_at)
        .limit(MAX_COUNTED)
    )
    by_channel: dict[str, list[Any]] = {}
    for row in conn.execute(query):
        by_channel.setdefault(row.channel, []).append(row)
    found = []
    for channel, rows in by_channel.items():
        failed = [row for row in rows if row.error is not None]
        oldest, failed_since = (min((row.created_at for row in some), default=now) for some in (rows, failed))
        drivers = len({row.user_id for row in failed})
        error = failed[-1].error if failed else None
        found.append(LatePushes(channel, len(rows), oldest, drivers, failed_since, error))
    return found


def dead_pushes(conn: Connection, since: datetime) -> list[Backlog]:
    """Count the pushes made since then that were given up, by channel."""
    query = (
        select(pushes.c.channel, pushes.c.created_at, pushes.c.delivery_id)
        .where(IS_DEAD_PUSH, pushes.c.created_at > since)
        .order_by(pushes.c.created_at.desc())
        .limit(MAX_COUNTED)
    )
    by_channel: dict[str, list[Any]] = {}
    for row in conn.execute(query):
        by_channel.setdefault(row.channel, []).append(row)
    return [
        Backlog(channel, len(rows), rows[0].created_at, rows[0].delivery_id) for channel, rows in by_channel.items()
    ]


def long_running_sessions(conn: Connection, kind: str, now: datetime, span: timedelta) -> list[StaleSession]:
    """List open sessions that started longer ago than the span."""
    query = (
        select(sessions.c.session_id, sessions.c.status, sessions.c.started_at, sessions.c.updated_at)
        .where(IS_OPEN, sessions.c.started_at <= now - span, sessions.c.started_at > now - span - LOOKBACK)
        .where(~_is_alerted(kind, sessions.c.session_id, sessions.c.updated_at))
        .order_by(sessions.c.started_at)
        .limit(MAX_FOUND)
    )
    return [StaleSession(*row) for row in conn.execute(query)]


def ended_sessions(conn: Connection, kind: str) -> list[str]:
    """List the subjects of open alerts of a kind whose sessions have ended."""
    is_open = exists().where(sessions.c.session_id == alerts.c.subject, sessions.c.status.not_in(FINAL_STATUSES))
    return list(conn.scalars(_open_alerts(kind).where(~is_open).limit(MAX_FOUND)))


def sessions_without_cdr(conn: Connection, kind: str, now: datetime, span: timedelta) -> list[StaleSession]:
    """List sessions that were known to be complete longer ago than the span and have no CDR."""
    known_at = sessions.c.updated_at
    query = (
        select(sessions.c.session_id, sessions.c.status, sessions.c.completed_at, known_at)
        .where(known_at <= now - span, known_at > now - span - LOOKBACK)
        .where(sessions.c.status == "COMPLETE", sessions.c.completed_at <= now - span)
        .where(~exists().where(cdrs.c.session_id == sessions.c.session_id))
        .where(~_is_alerted(kind, sessions.c.session_id, known_at))
        .order_by(known_at)
        .limit(MAX_FOUND)
    )
    return [StaleSession(*row) for row in conn.execute(query)]


def sessions_with_cdr(conn: Connection, kind: str) -> list[str]:
    """List the subjects of open alerts of a kind whose sessions have a CDR."""
    has_cdr = exists().where(cdrs.c.session_id == alerts.c.subject)
    return list(conn.scalars(_open_alerts(kind).where(has_cdr).limit(MAX_FOUND)))


def cdr_conflicts(conn: Connection, kind: str, since: datetime) -> list[OddCdr]:
    """List CDRs recorded after `since` that contradict another one with their request id, the latest of each."""
    return _odd_cdrs(conn, kind, since, cdrs.c.identity, IN_CONFLICT)


def implausible_cdrs(conn: Connection, kind: str, since: datetime) -> list[OddCdr]:
    """List CDRs recorded after `since` that contradict themselves, and the latest of each session with several."""
    # One alert for all of a delivery that have no request id: an array may be full of what is no CDR.
    subject = func.coalesce(cdrs.c.request_id, cdrs.c.delivery_id)
    contradictory = _odd_cdrs(conn, kind, since, subject, CONTRADICTS_ITSELF)
    return contradictory + _odd_cdrs(conn, kind, since, SESSION_PREFIX + cdrs.c.session_id, SHARES_SESSION)


def settled_cdr_conflicts(conn: Connection, kind: str) -> list[str]:
    """List the subjects of open alerts whose CDRs are not in conflict any more."""
    return _settled(conn, kind, and_(cdrs.c.identity == alerts.c.subject, IN_CONFLICT))


def settled_implausible_cdrs(conn: Connection, kind: str) -> list[str]:
    """List the subjects of open alerts whose CDRs neither contradict themselves nor share their session any more."""
    about_session = alerts.c.subject == SESSION_PREFIX + cdrs.c.session_id
    return _settled(
        conn,
        kind,
        and_(cdrs.c.delivery_id == alerts.c.delivery_id, CONTRADICTS_ITSELF),
        and_(cdrs.c.session_id == alerts.c.session_id, about_session, SHARES_SESSION),
    )


def recent_downtimes(conn: Connection, now: datetime) -> list[DowntimeRow]:
    """List the downtimes that ended within the last week, the latest first."""
    return downtimes.find(conn, ended_after=now - LOOKBACK, limit=MAX_FOUND)


def last_event_at(conn: Connection, now: datetime) -> datetime | None:
    """Return when the last event of the last week was received."""
    recent = _events(deliveries.c.received_at).where(deliveries.c.received_at > now - LOOKBACK)
    last: datetime | None = conn.scalar(recent.order_by(deliveries.c.received_at.desc()).limit(1))
    return last


def oldest_delivery_at(conn: Connection) -> datetime | None:
    """Return when the oldest delivery of the ledger was received."""
    first: datetime | None = conn.scalar(select(func.min(deliveries.c.received_at)))
    return first


def count_events(conn: Connection, until: datetime, span: timedelta, limit: int) -> int:
    """Count the events of the span that ends at `until`, up to the limit."""
    some = _events(deliveries.c.id).where(deliveries.c.received_at > until - span, deliveries.c.received_at <= until)
    return conn.scalar(select(func.count()).select_from(some.limit(limit).subquery())) or 0


def _odd_cdrs(
    conn: Connection, kind: str, since: datetime, subject: ColumnElement[Any], condition: ColumnElement[bool]
) -> list[OddCdr]:
    columns = cdrs.c.identity, cdrs.c.delivery_id, cdrs.c.session_id, cdrs.c.recorded_at, cdrs.c.notes
    query = (
        select(subject.label("subject"), *columns)
        .where(cdrs.c.recorded_at > since, condition, ~_is_alerted(kind, subject, cdrs.c.recorded_at))
        .order_by(cdrs.c.recorded_at)
        .limit(MAX_FOUND)
    )
    return list({row.subject: OddCdr(*row) for row in conn.execute(query)}.values())


def _settled(conn: Connection, kind: str, *causes: ColumnElement[bool]) -> list[str]:
    remaining = [~exists().select_from(cdrs).where(cause) for cause in causes]
    return list(conn.scalars(_open_alerts(kind).where(*remaining).limit(MAX_FOUND)))


def _open_alerts(kind: str) -> Select[Any]:
    return select(alerts.c.subject).where(alerts.c.kind == kind, alerts.c.resolved_at.is_(None))


def _is_alerted(kind: str, subject: ColumnElement[Any], since: ColumnElement[Any]) -> ColumnElement[bool]:
    """Match an alert about the subject that is open, or was resolved after the cause arose."""
    is_current = or_(alerts.c.resolved_at.is_(None), alerts.c.resolved_at >= since)
    return exists().where(alerts.c.kind == kind, alerts.c.subject == subject, is_current)


def _events(column: Any) -> Select[Any]:
    return select(column).where(deliveries.c.kind == Kind.EVENTS.value, deliveries.c.inbox != DRIVE_API)
