"""Find pushes that were given up, and make them due again."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, not_, or_, select, update

from workers.ledger.database.conditions import begins_with, in_list, matching, within
from workers.ledger.pushes import COLUMNS, PushRow
from workers.ledger.states import PushState
from workers.ledger.tables.core_tables import pushes

LATE_SPAN = timedelta(hours=1)
"""How long a push is tried that is to be sent although its time has passed."""


def find_given_up(  # noqa: PLR0913 - filters, by name
    conn: Connection,
    *,
    ids: Collection[str] | None = None,
    channel: str | None = None,
    states: Sequence[PushState] = (PushState.DEAD,),
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[PushRow]:
    """List pushes in these states, made in that span, or those with these ids; those that expire first in front."""
    conditions = [*within(pushes.c.created_at, since, until), *matching(pushes, channel=channel)]
    if ids is not None:
        conditions.append(in_list(pushes.c.id, ids))
    query = select(*COLUMNS).where(pushes.c.state.in_(states), *conditions)
    return [PushRow(*row) for row in conn.execute(query.order_by(pushes.c.expires_at.nulls_last(), pushes.c.id))]


def of_deliveries(conn: Connection, delivery_ids: Collection[str]) -> list[PushRow]:
    """List the pushes that followed from these deliveries, in the order in which they were made."""
    query = select(*COLUMNS).where(in_list(pushes.c.delivery_id, delivery_ids))
    return [PushRow(*row) for row in conn.execute(query.order_by(pushes.c.created_at, pushes.c.id))]


def resolve_id(conn: Connection, prefix: str) -> str | None:
    """Return the only id with this prefix; None if there is none, or more than one."""
    found = conn.scalars(select(pushes.c.id).where(begins_with(conn, pushes.c.id, prefix)).limit(2)).all()
    return found[0] if len(found) == 1 else None


def retry(conn: Connection, ids: Collection[str], states: Sequence[PushState], now: datetime) -> int:
    """Make pushes due that are still in these states, and return how many.

    One whose time has passed is tried for LATE_SPAN: leave it out of the ids if it must not be sent late.
    """
    chosen = (in_list(pushes.c.id, ids), pushes.c.state.in_(states))
    again = {"state": PushState.WAITING, "due_at": now}
    is_late = pushes.c.expires_at <= now
    in_time = update(pushes).where(*chosen, or_(pushes.c.expires_at.is_(None), not_(is_late))).values(again)
    late_ones = update(pushes).where(*chosen, is_late).values(again | {"expires_at": now + LATE_SPAN})
    return conn.execute(in_time).rowcount + conn.execute(late_ones).rowcount
