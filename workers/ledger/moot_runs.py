"""Group the moot runs of late by handler and reason: what handlers left undone because there was nothing left to do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, case, func, select

from workers.ledger.dead_runs import type_of
from workers.ledger.runs import handlers_of
from workers.ledger.states import WHOLE_DELIVERY, Outcome
from workers.ledger.tables.core_tables import runs

SPAN = timedelta(hours=24)
MAX_READ = 2000
"""The newest runs of a handler, of any outcome, that are looked at: no index has the moot ones alone."""
MAX_GROUPS = 50


@dataclass(frozen=True)
class MootGroup:
    """Moot runs of one handler for one reason."""

    handler: str
    reason: str
    count: int
    last_at: datetime
    delivery_id: str
    """Of one of them."""
    is_cut: bool
    """Whether there may be more than were read."""


def group_moot_runs(conn: Connection, now: datetime) -> list[MootGroup]:
    """Group the moot runs among the newest MAX_READ runs of each handler that ended within SPAN, the last one first."""
    names = [name for name in handlers_of(conn) if name != WHOLE_DELIVERY]
    found = [group for name in names for group in _groups_of(conn, name, now)]
    return sorted(found, key=lambda group: group.last_at, reverse=True)[:MAX_GROUPS]


def _groups_of(conn: Connection, handler: str, now: datetime) -> Sequence[MootGroup]:
    latest = (
        select(runs.c.delivery_id, runs.c.outcome, runs.c.reason, runs.c.finished_at)
        .where(runs.c.handler == handler, runs.c.finished_at > now - SPAN)
        .order_by(runs.c.finished_at.desc())
        .limit(MAX_READ)
        .subquery()
    )
    # All are counted, the others in one row: so it is known whether there were more.
    is_moot = latest.c.outcome == Outcome.MOOT
    query = select(
        case((is_moot, 1), else_=0).label("is_moot"),
        case((is_moot, latest.c.reason)).label("why"),
        func.count().label("runs"),
        func.max(latest.c.finished_at).label("last_at"),
        func.max(latest.c.delivery_id).label("delivery_id"),
    ).group_by("is_moot", "why")
    rows = conn.execute(query).all()
    is_cut = sum(row.runs for row in rows) == MAX_READ
    groups: dict[str, MootGroup] = {}
    for row in rows:
        if row.is_moot:
            why = type_of(row.why)
            group = MootGroup(handler, why, row.runs, row.last_at, row.delivery_id, is_cut)
            groups[why] = _united(groups[why], group) if why in groups else group
    return list(groups.values())


def _united(one: MootGroup, other: MootGroup) -> MootGroup:
    latest = max(one, other, key=lambda group: group.last_at)
    return replace(latest, count=one.count + other.count)
