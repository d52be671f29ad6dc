"""Which signing keys deliveries have matched, and whether CURRENT is still needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from ingest.wire.signature import Match
from workers.ledger.deliveries import DeliveryRow
from workers.ledger.tables.core_tables import deliveries


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


@dataclass(frozen=True)
class RotationStatus:
    """How far a rotation from CURRENT to NEXT has come."""

    current_last_at: datetime | None
    """When CURRENT last matched; None if it never did."""
    next_since: KeyUsage | None
    """What NEXT has matched since then; None if nothing."""

    @property
    def is_done(self) -> bool:
        """Whether only NEXT has matched since, so that CURRENT can be retired."""
        return self.next_since is not None


def key_uses(
    conn: Connection, waiting: Sequence[DeliveryRow] = (), *, since: datetime | None = None
) -> Mapping[str, KeyUsage]:
    """Count by key what came after `since`: deliveries in the ledger, and those that wait in an inbox."""
    query = select(
        deliveries.c.signed_with,
        func.count(),
        func.min(deliveries.c.received_at),
        func.max(deliveries.c.received_at),
    ).group_by(deliveries.c.signed_with)
    if since is not None:
        query = query.where(deliveries.c.received_at > since)
    uses = {key: KeyUsage(*use) for key, *use in conn.execute(query)}
    for row in waiting:
        if since is None or row.received_at > since:
            uses[row.signed_with] = KeyUsage(1, row.received_at, row.received_at).plus(uses.get(row.signed_with))
    return uses


def rotation_status(conn: Connection, waiting: Sequence[DeliveryRow] = ()) -> RotationStatus:
    """Return how far the rotation has come.

    What counts is what NEXT has matched since CURRENT's last match, not since NEXT's first: that one may belong to the
    previous rotation, whose NEXT is today's CURRENT.
    """
    current = key_uses(conn, waiting).get(Match.CURRENT)
    last_at = current.last_at if current else None
    return RotationStatus(last_at, key_uses(conn, waiting, since=last_at).get(Match.NEXT))
