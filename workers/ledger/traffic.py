"""How much comes, and when nothing could: by this the watchdog knows a silence."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, select

from ingest.wire.envelope import Kind
from workers.ledger.alerted import LOOKS_BACK, MOST
from workers.ledger.reread_tables import ROUTINE, gaps
from workers.ledger.tables import deliveries


@dataclass(frozen=True, slots=True)
class ClosedDoor:
    """A time in which a door was closed."""

    inbox: str
    closed_at: datetime
    opened_at: datetime
    noticed_at: datetime
    covered_at: datetime | None


def closed_doors(conn: Connection, now: datetime) -> list[ClosedDoor]:
    """List the times of the last week in which a door was closed."""
    query = select(gaps.c.inbox, gaps.c.closed_at, gaps.c.opened_at, gaps.c.noticed_at, gaps.c.covered_at)
    recent = query.where(gaps.c.inbox != ROUTINE, gaps.c.opened_at > now - LOOKS_BACK)
    return [ClosedDoor(*row) for row in conn.execute(recent.order_by(gaps.c.opened_at.desc()).limit(MOST))]


def last_event_at(conn: Connection, now: datetime) -> datetime | None:
    """Say when the last event of the last week was received."""
    recent = _events(deliveries.c.received_at).where(deliveries.c.received_at > now - LOOKS_BACK)
    last: datetime | None = conn.scalar(recent.order_by(deliveries.c.received_at.desc()).limit(1))
    return last


def known_since(conn: Connection) -> datetime | None:
    """Say how far back the ledger goes."""
    first: datetime | None = conn.scalar(select(func.min(deliveries.c.received_at)))
    return first


def count_events(conn: Connection, until: datetime, span: timedelta, limit: int) -> int:
    """Count the events of the span that ends then; not further than the limit."""
    some = _events(deliveries.c.id).where(deliveries.c.received_at > until - span, deliveries.c.received_at <= until)
    return conn.scalar(select(func.count()).select_from(some.limit(limit).subquery())) or 0


def _events(column: Any) -> Select[Any]:
    return select(column).where(deliveries.c.kind == Kind.EVENTS.value)
