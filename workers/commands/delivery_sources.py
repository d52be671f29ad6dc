"""Deliveries wherever they lie: those in the ledger, and those that have not come further than this node's inbox."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import Connection

from ingest.relay.outbox import Outbox, Unsettled
from workers.commands.output import Json, iso
from workers.ledger import deliveries
from workers.ledger.deliveries import DeliveryFilters, DeliveryRow, RunRow
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState

PAGE = 500
SMALLEST_STEP = timedelta(microseconds=1)
EVERYTHING = -1  # SQLite's word for a LIMIT that is none


def from_ledger_and_inbox(
    outbox: Outbox | None, conn: Connection, filters: DeliveryFilters, limit: int | None
) -> Iterator[DeliveryRow]:
    """List what fits, newest first; what an inbox has and the ledger has not seen yet is kept or queued."""
    # The inbox is read before the ledger: what moves on meanwhile is then seen in one of them at least.
    waiting = [] if outbox is None else in_inbox_only(conn, outbox.unsettled(limit=EVERYTHING))
    fitting = sorted((row for row in waiting if fits(row, filters)), key=_received_at, reverse=True)
    return islice(heapq.merge(in_ledger(conn, filters), fitting, key=_received_at, reverse=True), limit)


def in_ledger(conn: Connection, filters: DeliveryFilters) -> Iterator[DeliveryRow]:
    """Read the ledger page by page, newest first, so that a long list takes no more memory than a short one."""
    if filters.state in {DeliveryState.KEPT, DeliveryState.QUEUED}:
        return
    until, edge = filters.until, frozenset[str]()
    while True:
        # A page begins where the last one ended, with those of that same moment that were on it already.
        size = PAGE + len(edge)
        page = deliveries.find(conn, replace(filters, until=until), size)
        yield from (row for row in page if row.id not in edge)
        if len(page) < size:
            return
        last_at = page[-1].received_at
        until = last_at + SMALLEST_STEP
        edge = frozenset(row.id for row in page if row.received_at == last_at)


def in_inbox_only(conn: Connection, unsettled: Sequence[Unsettled]) -> list[DeliveryRow]:
    """Describe what lies in an inbox and not in the ledger too, where a worker puts it before it settles it."""
    known = {row.id for row in deliveries.get_many(conn, [each.delivery.id for each in unsettled])}
    return [described(each) for each in unsettled if each.delivery.id not in known]


def described(unsettled: Unsettled) -> DeliveryRow:
    """Describe a delivery of an inbox as if the ledger had it."""
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


def fits(row: DeliveryRow, filters: DeliveryFilters) -> bool:
    """Say whether a delivery without runs, as those of an inbox are, is what a person looks for."""
    return (
        filters.handler is None
        and filters.outcome is None
        and filters.state in {None, row.state}
        and filters.event in {None, row.event}
        and filters.session_id in {None, row.session_id}
        and (filters.since or row.received_at) <= row.received_at
        and (filters.until is None or row.received_at < filters.until)
    )


def find_one(outbox: Outbox | None, conn: Connection, beginning: str) -> DeliveryRow | None:
    """Find the one delivery whose id begins so, with its body; None if there is none, or more than one."""
    waiting = [] if outbox is None else in_inbox_only(conn, outbox.unsettled(limit=EVERYTHING))
    here = [row for row in waiting if row.id.startswith(beginning)]
    delivery_id = deliveries.resolve_id(conn, beginning)
    if delivery_id is None:
        return here[0] if len(here) == 1 else None
    return deliveries.get(conn, delivery_id) if not here or delivery_id == beginning else None


def delivery_json(row: DeliveryRow) -> dict[str, Json]:
    """Write a delivery as `deliveries --json` does."""
    return {
        "id": row.id,
        "kind": row.kind,
        "event": row.event,
        "session_id": row.session_id,
        "received_at": iso(row.received_at),
        "state": row.state,
        "key": row.signed_with,
        "duplicates": row.duplicates,
        "runs": [run_json(run) for run in row.runs],
    }


def run_json(run: RunRow) -> dict[str, Json]:
    """Write a run as `deliveries --json` does."""
    return {"handler": run.handler, "outcome": run.outcome, "attempts": run.attempts, "error": run.error}


def run_summary(run: RunRow) -> str:
    """Say how a run stands: `greet done`; of an outcome that is the whole delivery's, only that."""
    return run.outcome if run.handler == WHOLE_DELIVERY else f"{run.handler} {run.outcome}"


def _received_at(row: DeliveryRow) -> datetime:
    return row.received_at
