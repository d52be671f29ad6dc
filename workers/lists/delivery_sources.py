"""Deliveries wherever they are: those in the ledger, and those that have come no further than this node's inbox."""

import heapq
from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from sqlalchemy import Connection

from ingest.errors import Unreadable
from ingest.events import decode
from ingest.relay.outbox import Outbox, Unsettled
from ingest.wire.envelope import Kind
from workers.ledger import deliveries
from workers.ledger.database.conditions import Position
from workers.ledger.deliveries import DeliveryFilters, DeliveryRow
from workers.ledger.states import DeliveryState

PAGE = 500
NO_LIMIT = -1
"""The LIMIT of SQLite that is none."""


def from_ledger_and_inbox(
    outbox: Outbox | None,
    conn: Connection,
    filters: DeliveryFilters,
    limit: int | None,
    before: Position | None = None,
) -> Iterator[DeliveryRow]:
    """Yield matching deliveries, newest first; those that the ledger has not seen yet are kept or queued."""
    # The inbox is read before the ledger: what moves on meanwhile is then in one of them at least.
    waiting = sorted(
        (row for row in in_inbox_only(outbox, conn) if _matches(row, filters) and _is_behind(row, before)),
        key=_received_at,
        reverse=True,
    )
    stored = in_ledger(conn, filters, before, min(PAGE, limit or PAGE))
    return islice(heapq.merge(stored, waiting, key=_received_at, reverse=True), limit)


def in_ledger(
    conn: Connection, filters: DeliveryFilters, before: Position | None = None, size: int = PAGE
) -> Iterator[DeliveryRow]:
    """Yield the ledger's page by page, newest first, so that a long list takes no more memory than a short one."""
    if filters.state in {DeliveryState.KEPT, DeliveryState.QUEUED}:
        return
    while page := deliveries.find(conn, filters, size, before):
        yield from page
        if len(page) < size:
            return
        before = page[-1].received_at, page[-1].id


def in_inbox_only(outbox: Outbox | None, conn: Connection) -> list[DeliveryRow]:
    """List what is in the inbox and not in the ledger as well, where a worker stores it before it settles it."""
    unsettled = [] if outbox is None else outbox.unsettled(limit=NO_LIMIT)
    known = {row.id for row in deliveries.get_many(conn, [each.delivery.id for each in unsettled])}
    return [_as_row(each) for each in unsettled if each.delivery.id not in known]


def _as_row(unsettled: Unsettled) -> DeliveryRow:
    delivery = unsettled.delivery
    return DeliveryRow(
        id=delivery.id,
        kind=delivery.kind,
        event=delivery.event,
        session_id=delivery.session_id,
        received_at=delivery.received_at,
        signed_with=delivery.signed_with,
        signed_at=delivery.signed_at,
        headers=delivery.headers,
        inbox=delivery.inbox,
        state=DeliveryState.KEPT if unsettled.batch_id is None else DeliveryState.QUEUED,
        reason=None,
        stored_at=delivery.received_at,
        settled_at=None,
        duplicates=delivery.receipts - 1,
        body=delivery.body,
    )


def _matches(row: DeliveryRow, filters: DeliveryFilters) -> bool:
    """Return whether a delivery without runs, as those of an inbox are, matches the filters."""
    return (
        filters.handler is None
        and filters.outcome is None
        and filters.signed_with in {None, row.signed_with}
        and filters.state in {None, row.state}
        and filters.event in {None, row.event}
        and filters.session_id in {None, row.session_id}
        and (filters.person is None or _names(row, filters.person))
        and (filters.since or row.received_at) <= row.received_at
        and (filters.until is None or row.received_at < filters.until)
    )


def _names(row: DeliveryRow, person: str) -> bool:
    """Return whether a delivery itself names this driver."""
    try:
        event = decode(Kind(row.kind), row.body or b"")
    except Unreadable:
        return False
    return (getattr(event, "user_id", None) or "").lower() == person.lower()


def find_one(outbox: Outbox | None, conn: Connection, prefix: str) -> DeliveryRow | None:
    """Return the one delivery whose id begins with the prefix, with its body; None if there is none or several."""
    here = [row for row in in_inbox_only(outbox, conn) if row.id.startswith(prefix)]
    delivery_id = deliveries.resolve_id(conn, prefix)
    if delivery_id is None:
        return here[0] if len(here) == 1 else None
    return deliveries.get(conn, delivery_id) if not here or delivery_id == prefix else None


def _received_at(row: DeliveryRow) -> datetime:
    return row.received_at


def _is_behind(row: DeliveryRow, before: Position | None) -> bool:
    return before is None or (row.received_at <= before[0] and (row.received_at < before[0] or row.id > before[1]))
