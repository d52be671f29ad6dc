"""Prepaid balances as last read from the Drive API, and which are to be read next."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection, literal, or_, select, update

from handlers.kit.column_types import UtcDateTime
from workers.ledger.database.conditions import in_list
from workers.ledger.database.engine import insert_into
from workers.ledger.tables.authorization_tables import balances, charging_keys

PRIORITY = timedelta(days=1)
"""How far a user that a driver waits for is ahead of routine reads."""

RETRY_AFTER = timedelta(minutes=1)
"""A balance whose read failed is not read again sooner."""


@dataclass(frozen=True, slots=True)
class Balance:
    """A balance that was read; without an amount if the Drive API does not know the user."""

    user_id: str = field(repr=False)
    amount: Decimal | None = field(repr=False)
    read_at: datetime


def schedule_contracts(conn: Connection, now: datetime) -> None:
    """Schedule routine reads for the contracts of usable keys; known balances stay unchanged."""
    usable = (charging_keys.c.contract_id.is_not(None), charging_keys.c.enabled, charging_keys.c.gone_at.is_(None))
    # In the order of keys, so that two clocks never deadlock.
    users = select(charging_keys.c.contract_id, literal(now, UtcDateTime)).where(*usable).distinct()
    new = insert_into(conn, balances).from_select(["user_id", "due_at"], users.order_by(charging_keys.c.contract_id))
    conn.execute(new.on_conflict_do_nothing())


def request(conn: Connection, user_ids: Collection[str], now: datetime, *, older_than: timedelta) -> None:
    """Record that balances are wanted; unknown ones, and those read longer ago, get priority."""
    if not user_ids:
        return
    first = now - PRIORITY
    rows = [{"user_id": user_id, "asked_at": now, "due_at": first} for user_id in sorted(user_ids)]
    new = insert_into(conn, balances)
    conn.execute(new.on_conflict_do_update(index_elements=["user_id"], set_={"asked_at": new.excluded.asked_at}), rows)
    is_old = or_(balances.c.read_at.is_(None), balances.c.read_at < now - older_than)
    may_retry = or_(balances.c.failed_at.is_(None), balances.c.failed_at < now - RETRY_AFTER)
    urgent = update(balances).where(in_list(balances.c.user_id, user_ids), balances.c.due_at > first, is_old, may_retry)
    conn.execute(urgent.values(due_at=first))


def is_any_due(conn: Connection, now: datetime) -> bool:
    """Return whether a balance is due; cheaper than a claim of nothing."""
    return conn.execute(select(balances.c.user_id).where(balances.c.due_at <= now).limit(1)).first() is not None


def claim(conn: Connection, now: datetime, span: timedelta, *, limit: int) -> list[str]:
    """Claim the users of due balances for the span, the longest due first."""
    due = select(balances.c.user_id).where(balances.c.due_at <= now).order_by(balances.c.due_at).limit(limit)
    due = due.with_for_update(skip_locked=True).correlate(None)
    claiming = update(balances).where(balances.c.user_id.in_(due)).values(due_at=now + span)
    return list(conn.scalars(claiming.returning(balances.c.user_id)))


def mark_read(conn: Connection, read: Sequence[Balance], *, every: timedelta, otherwise: timedelta) -> None:
    """Store balances; each is due again after `every` if it was wanted within a day, else after `otherwise`."""
    for one in sorted(read, key=lambda each: each.user_id):
        mine = balances.c.user_id == one.user_id
        values = {"amount": one.amount, "read_at": one.read_at, "failed_at": None, "reason": None}
        conn.execute(update(balances).where(mine).values(**values, due_at=one.read_at + otherwise))
        wanted = balances.c.asked_at >= one.read_at - timedelta(days=1)
        conn.execute(update(balances).where(mine, wanted).values(due_at=one.read_at + every))


def mark_failed(conn: Connection, user_ids: Collection[str], now: datetime, due_at: datetime, reason: str) -> None:
    """Record failed reads; the balances read before stand."""
    values = {"failed_at": now, "due_at": due_at, "reason": reason}
    conn.execute(update(balances).where(in_list(balances.c.user_id, user_ids)).values(values))


def read_since(conn: Connection, since: datetime) -> list[Balance]:
    """List the balances that were read since then, in no order."""
    query = select(balances.c.user_id, balances.c.amount, balances.c.read_at).where(balances.c.read_at >= since)
    return [Balance(*row) for row in conn.execute(query)]
