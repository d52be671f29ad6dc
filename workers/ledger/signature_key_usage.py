"""Counts how often signing keys matched, as deliveries are stored: to count later, all would have to be read."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, func, select

from ingest.queue.batch import Delivery
from ingest.wire.signature import Match
from workers.ledger.database.conditions import widened
from workers.ledger.database.engine import insert_into
from workers.ledger.tables.core_tables import IS_OF_OTHER_KEY, deliveries
from workers.ledger.tables.key_tables import signing_key_uses

SLOTS = 16
"""Rows of a signing key. Each batch takes one of them at random, so that workers seldom wait for each other."""
MAX_COUNTED = 10_000


@dataclass(frozen=True)
class KeyUsage:
    """How many deliveries a key has matched, and when the first and the last of them came."""

    count: int
    first_at: datetime
    last_at: datetime

    def plus(self, other: "KeyUsage | None") -> "KeyUsage":
        """Return the sum of two usages of a key."""
        if other is None:
            return self
        return KeyUsage(self.count + other.count, min(self.first_at, other.first_at), max(self.last_at, other.last_at))


def count(conn: Connection, stored: Iterable[Delivery]) -> None:
    """Count deliveries that were stored, by the signing key that they matched."""
    uses: dict[str, KeyUsage] = {}
    for each in stored:
        use = KeyUsage(1, each.received_at, each.received_at)
        uses[each.signed_with] = use.plus(uses.get(each.signed_with))
    slot = random.randrange(SLOTS)  # noqa: S311 - spreads, and hides nothing
    rows = [
        {"signed_with": key, "slot": slot, "deliveries": use.count, "first_at": use.first_at, "last_at": use.last_at}
        for key, use in sorted(uses.items())
    ]
    if rows:
        new = insert_into(conn, signing_key_uses)
        counts = {"deliveries": signing_key_uses.c.deliveries + new.excluded.deliveries, **widened(new)}
        conn.execute(new.on_conflict_do_update(index_elements=["signed_with", "slot"], set_=counts), rows)


def find(conn: Connection) -> dict[str, KeyUsage]:
    """Return the use of each signing key since it was first used."""
    table = signing_key_uses.c
    query = select(
        table.signed_with, func.sum(table.deliveries), func.min(table.first_at), func.max(table.last_at)
    ).group_by(table.signed_with)
    return {key: KeyUsage(int(count), *times) for key, count, *times in conn.execute(query)}


def matched_since(conn: Connection, key: str, since: datetime | None) -> KeyUsage | None:
    """Return what a signing key has matched after a time, counted up to MAX_COUNTED; None if nothing."""
    of_key = [is_signed_with(key), *([] if since is None else [deliveries.c.received_at > since])]
    query = select(deliveries.c.received_at).where(*of_key).order_by(deliveries.c.received_at)
    times = list(conn.scalars(query.limit(MAX_COUNTED)))
    return KeyUsage(len(times), times[0], times[-1]) if times else None


def is_signed_with(key: str) -> ColumnElement[bool]:
    """Build the condition that a delivery matched this key, so that the index of all but CURRENT is used."""
    condition = deliveries.c.signed_with == key
    # In words of the index: see `has_state` of deliveries.
    return condition if key == Match.CURRENT else and_(condition, IS_OF_OTHER_KEY)


def last_match_after(conn: Connection, key: str, at: datetime) -> datetime | None:
    """Return when a signing key last matched after a time, also by what a version stored that counts nothing."""
    query = select(func.max(deliveries.c.received_at))
    found: datetime | None = conn.scalar(query.where(is_signed_with(key), deliveries.c.received_at > at))
    return found
