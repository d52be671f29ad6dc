"""Which signing keys deliveries have matched, and whether CURRENT is still needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from ingest.queue.batch import DRIVE_API
from ingest.wire.signature import Match
from workers.ledger import signature_key_usage
from workers.ledger.deliveries import DeliveryRow
from workers.ledger.signature_key_usage import KeyUsage


@dataclass(frozen=True)
class RotationStatus:
    """How far a rotation from CURRENT to NEXT has come."""

    current_last_at: datetime | None
    """When CURRENT last matched; None if it never did."""
    next_since: KeyUsage | None
    """What NEXT has matched since then, counted up to MAX_COUNTED; None if nothing."""

    @property
    def is_done(self) -> bool:
        """Whether only NEXT has matched since, so that CURRENT can be retired."""
        return self.next_since is not None


def key_uses(conn: Connection, waiting: Sequence[DeliveryRow] = ()) -> Mapping[str, KeyUsage]:
    """Return the use of each key: by deliveries that the ledger has had, and those that wait in an inbox."""
    # What the Drive API has told is signed with no key.
    uses = {key: use for key, use in signature_key_usage.find(conn).items() if key != DRIVE_API}
    for row in waiting:
        uses[row.signed_with] = _use_of(row).plus(uses.get(row.signed_with))
    return uses


def rotation_status(
    conn: Connection, uses: Mapping[str, KeyUsage], waiting: Sequence[DeliveryRow] = ()
) -> RotationStatus:
    """Return how far the rotation has come.

    What counts is what NEXT has matched since CURRENT's last match, not since NEXT's first: that one may belong to the
    previous rotation, whose NEXT is today's CURRENT.
    """
    last_at = uses[Match.CURRENT].last_at if Match.CURRENT in uses else None
    if last_at is not None:  # versions of before that run beside this one, or ran since, do not count
        last_at = signature_key_usage.last_match_after(conn, Match.CURRENT, last_at) or last_at
    since = signature_key_usage.matched_since(conn, Match.NEXT, last_at)
    for row in waiting:
        if row.signed_with == Match.NEXT and (last_at is None or row.received_at > last_at):
            since = _use_of(row).plus(since)
    return RotationStatus(last_at, since)


def _use_of(row: DeliveryRow) -> KeyUsage:
    return KeyUsage(1, row.received_at, row.received_at)
