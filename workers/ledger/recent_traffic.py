"""How much comes, and when nothing could: by this the watchdog knows a silence."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, select

from ingest.wire.envelope import Kind
from workers.ledger.alert_queries import LOOKBACK, MOST
from workers.ledger.tables.core import deliveries
from workers.ledger.tables.reconciliation import ROUTINE, downtimes


@dataclass(frozen=True, slots=True)
class Downtime:
    """A time in which a door was closed."""

    inbox: str
    closed_at: datetime
    opened_at: datetime
    noticed_at: datetime
    covered_at: datetime | None


def recent_downtimes(conn: Connection, now: datetime) -> list[Downtime]:
    """List the times of the last week in which a door was closed."""
    query = select(
        downtimes.c.inbox, downtimes.c.closed_at, downtimes.c.opened_at, downtimes.c.noticed_at, downtimes.c.covered_at
    )
    recent = query.where(downtimes.c.inbox != ROUTINE, downtimes.c.opened_at > now - LOOKBACK)
    return [Downtime(*row) for row in conn.execute(recent.order_by(downtimes.c.opened_at.desc()).limit(MOST))]


def last_event_at(conn: Connection, now: datetime) -> datetime | None:
    """Say when the last event of the last week was received."""
    recent = _events(deliveries.c.received_at).where(deliveries.c.received_at > now - LOOKBACK)
    last: datetime | None = conn.scalar(recent.order_by(deliveries.c.received_at.desc()).limit(1))
    return last


def oldest_delivery_at(conn: Connection) -> datetime | None:
    """Say how far back the ledger goes."""
    first: datetime | None = conn.scalar(select(func.min(deliveries.c.received_at)))
    return first


def count_events(conn: Connection, until: datetime, span: timedelta, limit: int) -> int:
    """Count the events of the span that ends then; not further than the limit."""
    some = _events(deliveries.c.id).where(deliveries.c.received_at > until - span, deliveries.c.received_at <= until)
    return conn.scalar(select(func.count()).select_from(some.limit(limit).subquery())) or 0


def _events(column: Any) -> Select[Any]:
    return select(column).where(deliveries.c.kind == Kind.EVENTS.value)
