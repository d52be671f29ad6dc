"""Which alerts are to be told: to the log, and to the addresses of ALERT_URLS."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, select, update

from workers.ledger.database.in_list import in_list
from workers.ledger.tables.alerts import alerts


@dataclass(frozen=True, slots=True)
class PendingAlert:
    """An alert that is to be told."""

    id: str
    kind: str
    sentence: str
    session_id: str | None
    delivery_id: str | None
    raised_at: datetime
    resolved_at: datetime | None
    #: The names of the addresses that have taken it.
    told: tuple[str, ...]


COLUMNS = [alerts.c[name] for name in PendingAlert.__dataclass_fields__]


def is_any_unlogged(conn: Connection) -> bool:
    """Say whether there is anything to log."""
    return bool(conn.scalar(select(exists().where(alerts.c.logged_at.is_(None)))))


def unlogged(conn: Connection, limit: int) -> list[PendingAlert]:
    """List alerts that no line in the log tells of, the oldest first; nobody else gets them in this transaction."""
    query = select(*COLUMNS).where(alerts.c.logged_at.is_(None)).order_by(alerts.c.raised_at).limit(limit)
    return _read(conn, query.with_for_update(skip_locked=True))


def mark_logged(conn: Connection, ids: Collection[str], now: datetime) -> None:
    """Note that the log tells of them."""
    conn.execute(update(alerts).where(in_list(alerts.c.id, ids)).values(logged_at=now))


def mark_delivered(conn: Connection, ids: Collection[str], now: datetime) -> None:
    """Note that everybody has been told of them."""
    conn.execute(update(alerts).where(in_list(alerts.c.id, ids)).values(told_at=now, due_at=None))


def suppress(conn: Connection, ids: Collection[str]) -> None:
    """Note that nobody is to be told of them, or not any more."""
    conn.execute(update(alerts).where(in_list(alerts.c.id, ids)).values(due_at=None))


def is_any_due(conn: Connection, now: datetime) -> bool:
    """Say whether there is anything to send."""
    return bool(conn.scalar(select(exists().where(_due(now)))))


def claim(conn: Connection, now: datetime, until: datetime, limit: int) -> list[PendingAlert]:
    """Take what is due to be sent, the oldest first; nobody else gets it before `until`."""
    query = select(*COLUMNS).where(_due(now)).order_by(alerts.c.due_at, alerts.c.raised_at).limit(limit)
    claimed = _read(conn, query.with_for_update(skip_locked=True))
    conn.execute(update(alerts).where(in_list(alerts.c.id, [one.id for one in claimed])).values(due_at=until))
    return claimed


def record_delivered(conn: Connection, sent: Sequence[PendingAlert]) -> None:
    """Note which addresses have taken them."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for one in sent:
        groups.setdefault(one.told, []).append(one.id)
    for told, ids in groups.items():
        conn.execute(update(alerts).where(in_list(alerts.c.id, ids)).values(told=list(told)))


def reschedule(conn: Connection, ids: Collection[str], due_at: datetime) -> None:
    """Note when those are tried again that somebody has not taken."""
    conn.execute(update(alerts).where(in_list(alerts.c.id, ids)).values(due_at=due_at))


def _due(now: datetime) -> ColumnElement[bool]:
    # The log comes first: who writes it knows which kinds are not to be told.
    return and_(alerts.c.due_at <= now, alerts.c.logged_at.is_not(None))


def _read(conn: Connection, query: Select[Any]) -> list[PendingAlert]:
    return [PendingAlert(**{**row._mapping, "told": tuple(row.told or ())}) for row in conn.execute(query)]  # noqa: SLF001 - public, despite its name
