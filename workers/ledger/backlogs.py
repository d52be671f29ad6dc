"""What piles up until somebody looks: deliveries that are not understood, and runs that were given up."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, literal_column, select

from workers.ledger.alert_queries import LOOKBACK
from workers.ledger.states import DeliveryState
from workers.ledger.tables.core import deliveries, runs

MOST_COUNTED = 1000

IS_DEAD = runs.c.outcome == literal_column("'dead'")  # written out, so that both databases see that the index applies


@dataclass(frozen=True, slots=True)
class Backlog:
    """Things of one sort that lie there: how many, up to `MOST_COUNTED`, and the one that came last."""

    subject: str
    count: int
    last_at: datetime
    last_delivery: str


def unreadable_backlog(conn: Connection, what: str, now: datetime, since: datetime | None) -> Backlog | None:
    """Count deliveries of a kind that are not understood, of the last week, and stored since then."""
    query = select(deliveries.c.id, deliveries.c.stored_at).where(
        deliveries.c.state == DeliveryState.UNREADABLE,
        deliveries.c.received_at > now - LOOKBACK,
        deliveries.c.kind == what,
    )
    if since is not None:
        query = query.where(deliveries.c.stored_at > since)
    rows = conn.execute(query.order_by(deliveries.c.received_at.desc()).limit(MOST_COUNTED)).all()
    return Backlog(what, len(rows), max(row.stored_at for row in rows), rows[0].id) if rows else None


def handlers_of_dead(conn: Connection) -> list[str]:
    """Name the handlers that have dead letters, going from one to the next in the index."""
    found: list[str] = []
    while True:
        query = select(func.min(runs.c.handler)).where(IS_DEAD)
        last = conn.scalar(query.where(runs.c.handler > found[-1]) if found else query)
        if last is None:
            return found
        found.append(last)


def dead_letter_backlog(conn: Connection, handler: str, since: datetime | None) -> Backlog | None:
    """Count the dead letters of a handler that it has been given up since then."""
    query = select(runs.c.delivery_id, runs.c.finished_at).where(
        IS_DEAD, runs.c.handler == handler, runs.c.finished_at.is_not(None)
    )
    if since is not None:
        query = query.where(runs.c.finished_at > since)
    rows = conn.execute(query.order_by(runs.c.finished_at.desc()).limit(MOST_COUNTED)).all()
    return Backlog(handler, len(rows), rows[0].finished_at, rows[0].delivery_id) if rows else None
