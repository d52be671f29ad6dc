"""What alerts tell of already, for those who look for causes of new ones."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, exists, func, or_, select

from workers.ledger.tables.alerts import alerts

LOOKBACK = timedelta(days=7)
"""What is older was an alert long ago, or the ledger is older than its watchdog."""

MOST = 500
"""New causes that one look finds; the next look finds more."""


def last_resolved_at(conn: Connection, kind: str, subject: str) -> datetime | None:
    """Say when the last alert of a kind about a subject was resolved."""
    about = (alerts.c.kind == kind, alerts.c.subject == subject)
    last: datetime | None = conn.scalar(select(func.max(alerts.c.resolved_at)).where(*about))
    return last


def open_subjects(conn: Connection, kind: str) -> set[str]:
    """Name what the open alerts of a kind are about."""
    return set(conn.scalars(open_alerts(kind)))


def open_alerts(kind: str) -> Select[Any]:
    """Select what the open alerts of a kind are about."""
    return select(alerts.c.subject).where(alerts.c.kind == kind, alerts.c.resolved_at.is_(None))


def is_alerted(kind: str, subject: ColumnElement[Any], since: ColumnElement[Any]) -> ColumnElement[bool]:
    """Say whether an alert of a kind about the subject is open, or has been resolved since the cause arose."""
    told = or_(alerts.c.resolved_at.is_(None), alerts.c.resolved_at >= since)
    return exists().where(alerts.c.kind == kind, alerts.c.subject == subject, told)
