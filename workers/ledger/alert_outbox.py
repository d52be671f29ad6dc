"""Alerts that are to be logged, or sent to the destinations of ALERT_URLS."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, select, update

from workers.ledger.database.conditions import in_list
from workers.ledger.tables.alert_tables import alerts


@dataclass(frozen=True, slots=True)
class PendingAlert:
    """An alert that is to be logged or sent."""

    id: str
    kind: str
    sentence: str
    session_id: str | None
    delivery_id: str | None
    raised_at: datetime
    resolved_at: datetime | None
    #: The names of the destinations that have taken it.
    told: tuple[str, ...]


COLUMNS = [alerts.c[name] for name in PendingAlert.__dataclass_fields__]


def is_any_unlogged(conn: Connection) -> bool:
    """Return whether there is anything to log."""
    return bool(conn.scalar(select(exists().where(alerts.c.logged_at.is_(None)))))


def unlogged(conn: Connection, limit: int) -> list[PendingAlert]:
    """List alerts that were not logged, oldest first, locked for this transaction."""
    query = select(*COLUMNS).where(alerts.c.logged_at.is_(None)).order_by(alerts.c.raised_at).limit(limit)
    return _fetch_locked(conn, query)


def mark_logged(conn: Connection, ids: Collection[str], now: datetime) -> None:
    """Mark alerts as logged."""
    _set(conn, ids, logged_at=now)


def mark_delivered(conn: Connection, ids: Collection[str], now: datetime) -> None:
    """Mark alerts as taken by every destination."""
    _set(conn, ids, told_at=now, due_at=None)


def mark_due_delivered(conn: Connection, now: datetime) -> None:
    """Mark all alerts that are due as delivered, where there is nobody to send them to."""
    conn.execute(update(alerts).where(_due(now)).values(told_at=now, due_at=None))


def is_any_due(conn: Connection, now: datetime) -> bool:
    """Return whether there is anything to send."""
    return bool(conn.scalar(select(exists().where(_due(now)))))


def claim(conn: Connection, now: datetime, until: datetime, limit: int) -> list[PendingAlert]:
    """Claim due alerts until then, oldest first."""
    query = select(*COLUMNS).where(_due(now)).order_by(alerts.c.due_at, alerts.c.raised_at).limit(limit)
    claimed = _fetch_locked(conn, query)
    reschedule(conn, [alert.id for alert in claimed], until)
    return claimed


def record_delivered(conn: Connection, sent: Sequence[PendingAlert]) -> None:
    """Record which destinations have taken each alert."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for alert in sent:
        groups.setdefault(alert.told, []).append(alert.id)
    for told, ids in groups.items():
        _set(conn, ids, told=list(told))


def reschedule(conn: Connection, ids: Collection[str], due_at: datetime | None) -> None:
    """Set when alerts are sent again to the destinations that have not taken them; None for never."""
    _set(conn, ids, due_at=due_at)


def _due(now: datetime) -> ColumnElement[bool]:
    # Logged first: the one who logs knows which kinds are muted.
    return and_(alerts.c.due_at <= now, alerts.c.logged_at.is_not(None))


def _set(conn: Connection, ids: Collection[str], **values: object) -> None:
    conn.execute(update(alerts).where(in_list(alerts.c.id, ids)).values(**values))


def _fetch_locked(conn: Connection, query: Select[Any]) -> list[PendingAlert]:
    rows = conn.execute(query.with_for_update(skip_locked=True))
    return [PendingAlert(**{**row._mapping, "told": tuple(row.told or ())}) for row in rows]  # noqa: SLF001 - public, despite its name
