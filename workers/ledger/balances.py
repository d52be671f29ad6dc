"""Prepaid balances as they were last read from the Drive API, and whose are to be read next."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection, literal, or_, select, update

from handlers.kit.column_types import UtcDateTime
from workers.ledger.database.engine import insert_into
from workers.ledger.database.in_list import in_list
from workers.ledger.tables.authorization import balances, charging_keys

PRIORITY = timedelta(days=1)
"""By how much whoever a driver waits for is ahead of those who are read as a matter of routine."""


PATIENCE = timedelta(minutes=1)
"""Whoever could not be read is not read again sooner."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What was read; no amount if the Drive API does not know the user."""

    user_id: str = field(repr=False)
    amount: Decimal | None = field(repr=False)
    read_at: datetime


def schedule_contracts(conn: Connection, now: datetime) -> None:
    """Have the balances of contracts read, as a matter of routine, that have a key which can be used.

    Those that are known already stay as they are.
    """
    usable = (charging_keys.c.contract_id.is_not(None), charging_keys.c.enabled, charging_keys.c.gone_at.is_(None))
    # In the order of keys, so that two clocks never wait for each other in a circle.
    users = select(charging_keys.c.contract_id, literal(now, UtcDateTime)).where(*usable).distinct()
    new = insert_into(conn, balances).from_select(["user_id", "due_at"], users.order_by(charging_keys.c.contract_id))
    conn.execute(new.on_conflict_do_nothing())


def request(conn: Connection, user_ids: Collection[str], now: datetime, *, older_than: timedelta) -> None:
    """Note that these were asked for; those that are not known, or were read longer ago, are first in line."""
    if not user_ids:
        return
    first = now - PRIORITY
    rows = [{"user_id": user_id, "asked_at": now, "due_at": first} for user_id in sorted(user_ids)]
    new = insert_into(conn, balances)
    conn.execute(new.on_conflict_do_update(index_elements=["user_id"], set_={"asked_at": new.excluded.asked_at}), rows)
    is_old = or_(balances.c.read_at.is_(None), balances.c.read_at < now - older_than)
    may_work = or_(balances.c.failed_at.is_(None), balances.c.failed_at < now - PATIENCE)
    hurry = update(balances).where(in_list(balances.c.user_id, user_ids), balances.c.due_at > first, is_old, may_work)
    conn.execute(hurry.values(due_at=first))


def is_any_due(conn: Connection, now: datetime) -> bool:
    """Say whether there is one to be read; looking is cheaper than claiming nothing."""
    return conn.execute(select(balances.c.user_id).where(balances.c.due_at <= now).limit(1)).first() is not None


def claim(conn: Connection, now: datetime, span: timedelta, *, limit: int) -> list[str]:
    """Take on the balances that are due for longest; nobody else gets them before the span is over."""
    due = select(balances.c.user_id).where(balances.c.due_at <= now).order_by(balances.c.due_at).limit(limit)
    due = due.with_for_update(skip_locked=True).correlate(None)
    claiming = update(balances).where(balances.c.user_id.in_(due)).values(due_at=now + span)
    return list(conn.scalars(claiming.returning(balances.c.user_id)))


def put(conn: Connection, read: Sequence[Balance], *, every: timedelta, otherwise: timedelta) -> None:
    """Keep what was read; it is due again after `every` if it was asked for within a day, else after `otherwise`."""
    for one in sorted(read, key=lambda each: each.user_id):
        mine = balances.c.user_id == one.user_id
        values = {"amount": one.amount, "read_at": one.read_at, "failed_at": None, "reason": None}
        conn.execute(update(balances).where(mine).values(**values, due_at=one.read_at + otherwise))
        asked = balances.c.asked_at >= one.read_at - timedelta(days=1)
        conn.execute(update(balances).where(mine, asked).values(due_at=one.read_at + every))


def failed(conn: Connection, user_ids: Collection[str], now: datetime, due_at: datetime, reason: str) -> None:
    """Say that these could not be read: what was read before stands."""
    values = {"failed_at": now, "due_at": due_at, "reason": reason}
    conn.execute(update(balances).where(in_list(balances.c.user_id, user_ids)).values(values))


def read_since(conn: Connection, since: datetime) -> list[Balance]:
    """List the balances that were read since then, in no order."""
    query = select(balances.c.user_id, balances.c.amount, balances.c.read_at).where(balances.c.read_at >= since)
    return [Balance(*row) for row in conn.execute(query)]
