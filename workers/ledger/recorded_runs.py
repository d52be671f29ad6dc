"""Runs without a row: the record functions that succeeded when a delivery was stored are names in its `recorded_by`.

Nearly every run is one of these, and says nothing that its delivery does not: the first attempt, done when it was
stored. All others have a row in `runs`, which goes before a name: a replay makes rows of the names.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, func, literal, select, update

from workers.ledger.database.conditions import in_list
from workers.ledger.runs import RunKey, RunRecord, insert_runs
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import deliveries, runs

SEPARATOR = ","


def join_names(handlers: Iterable[str]) -> str:
    """Return the value of `recorded_by`."""
    return SEPARATOR.join(handlers)


def recorded_runs(delivery_id: str, recorded_by: str | None, stored_at: datetime) -> Iterator[RunRecord]:
    """Yield the runs without a row of a delivery."""
    for handler in recorded_by.split(SEPARATOR) if recorded_by else ():
        yield RunRecord(
            delivery_id=delivery_id,
            handler=handler,
            outcome=Outcome.DONE,
            attempts=1,
            started_at=stored_at,
            finished_at=stored_at,
        )


def is_recorded_by(handler: str) -> ColumnElement[bool]:
    """Build the condition that a delivery has a run of this function without a row; never NULL."""
    names = literal(SEPARATOR) + func.coalesce(deliveries.c.recorded_by, "") + literal(SEPARATOR)
    return names.contains(f"{SEPARATOR}{handler}{SEPARATOR}", autoescape=True)


def existing(conn: Connection, delivery_ids: Collection[str]) -> set[RunKey]:
    """Return the keys of all runs of these deliveries, with a row and without."""
    if not delivery_ids:
        return set()
    rows = conn.execute(select(runs.c.delivery_id, runs.c.handler).where(in_list(runs.c.delivery_id, delivery_ids)))
    recorded = select(deliveries.c.id, deliveries.c.recorded_by).where(in_list(deliveries.c.id, delivery_ids))
    names = conn.execute(recorded.where(deliveries.c.recorded_by.is_not(None)))
    return {(delivery_id, handler) for delivery_id, handler in rows} | {
        (delivery_id, handler) for delivery_id, by in names for handler in by.split(SEPARATOR)
    }


def make_rows(conn: Connection, delivery_ids: Collection[str], queue: str) -> None:
    """Make rows of the runs without one, for whoever changes them."""
    recorded = select(deliveries.c.id, deliveries.c.recorded_by, deliveries.c.stored_at).where(
        in_list(deliveries.c.id, delivery_ids), deliveries.c.recorded_by.is_not(None)
    )
    found = conn.execute(recorded.order_by(deliveries.c.id).with_for_update()).all()
    insert_runs(conn, [run for row in found for run in recorded_runs(*row)], queue)
    these = update(deliveries).where(in_list(deliveries.c.id, [row.id for row in found]))
    conn.execute(these.values(recorded_by=None))
