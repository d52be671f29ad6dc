"""Sessions and CDRs that somebody should look at: what stands open, is missing, or contradicts itself.

Each question has a limit and leaves out what an alert tells of already.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, exists, select

from handlers.kit.cdr_table import cdrs
from handlers.kit.statuses import FINAL_STATUSES
from workers.ledger.alert_queries import LOOKBACK, MOST, is_alerted, open_alerts
from workers.ledger.tables.alerts import alerts
from workers.ledger.tables.core import IS_OPEN, sessions


@dataclass(frozen=True, slots=True)
class StaleSession:
    """A session in which nothing happens: `at` is when it reached its status, `known_at` when we heard of it last."""

    session_id: str
    status: str
    at: datetime
    known_at: datetime


@dataclass(frozen=True, slots=True)
class Conflict:
    """A CDR whose request id another one has too."""

    request_id: str
    delivery_id: str
    session_id: str | None
    recorded_at: datetime


def long_running_sessions(conn: Connection, kind: str, now: datetime, span: timedelta) -> list[StaleSession]:
    """List sessions that started longer ago than the span and are not over."""
    query = (
        select(sessions.c.session_id, sessions.c.status, sessions.c.started_at, sessions.c.updated_at)
        .where(IS_OPEN, sessions.c.started_at <= now - span, sessions.c.started_at > now - span - LOOKBACK)
        .where(~is_alerted(kind, sessions.c.session_id, sessions.c.updated_at))
        .order_by(sessions.c.started_at)
        .limit(MOST)
    )
    return [StaleSession(*row) for row in conn.execute(query)]


def ended_sessions(conn: Connection, kind: str) -> list[str]:
    """List the open alerts of a kind whose sessions are over."""
    still = exists().where(sessions.c.session_id == alerts.c.subject, sessions.c.status.not_in(FINAL_STATUSES))
    return list(conn.scalars(open_alerts(kind).where(~still).limit(MOST)))


def without_cdr(conn: Connection, kind: str, now: datetime, span: timedelta) -> list[StaleSession]:
    """List sessions that are known to be complete for longer than the span, and have no CDR."""
    known_at = sessions.c.updated_at
    query = (
        select(sessions.c.session_id, sessions.c.status, sessions.c.completed_at, known_at)
        .where(known_at <= now - span, known_at > now - span - LOOKBACK)
        .where(sessions.c.status == "COMPLETE", sessions.c.completed_at <= now - span)
        .where(~exists().where(cdrs.c.session_id == sessions.c.session_id))
        .where(~is_alerted(kind, sessions.c.session_id, known_at))
        .order_by(known_at)
        .limit(MOST)
    )
    return [StaleSession(*row) for row in conn.execute(query)]


def with_cdr(conn: Connection, kind: str) -> list[str]:
    """List the open alerts of a kind whose sessions have a CDR."""
    return list(
        conn.scalars(open_alerts(kind).where(exists().where(cdrs.c.session_id == alerts.c.subject)).limit(MOST))
    )


def conflicts(conn: Connection, kind: str, since: datetime) -> list[Conflict]:
    """List CDRs, recorded since then, whose request id another one has too; the last one of each id."""
    other = cdrs.alias("other")
    same = and_(other.c.request_id == cdrs.c.request_id, other.c.delivery_id != cdrs.c.delivery_id)
    query = (
        select(cdrs.c.request_id, cdrs.c.delivery_id, cdrs.c.session_id, cdrs.c.recorded_at)
        .where(cdrs.c.recorded_at > since, cdrs.c.request_id.is_not(None), exists().where(same))
        .where(~is_alerted(kind, cdrs.c.request_id, cdrs.c.recorded_at))
        .order_by(cdrs.c.recorded_at)
        .limit(MOST)
    )
    return list({row.request_id: Conflict(*row) for row in conn.execute(query)}.values())
