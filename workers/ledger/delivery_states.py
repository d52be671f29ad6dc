"""Derive the states of deliveries from the outcomes of their runs.

handler -> commit -> [delivery states] -> ledger
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, bindparam, case, func, select, update

from handlers.kit.column_types import UtcDateTime
from workers.ledger.database.conditions import in_list
from workers.ledger.states import OPEN_OUTCOMES, DeliveryState, Outcome
from workers.ledger.tables.core_tables import deliveries, runs

# Built once: building a statement costs more than running it on a small batch.
STATES = (
    select(deliveries.c.id, deliveries.c.state, deliveries.c.event, deliveries.c.received_at)
    .where(in_list(deliveries.c.id, "ids"))
    .order_by(deliveries.c.id)
    .with_for_update()
)
UNSETTLED_RUNS = select(runs.c.delivery_id, runs.c.outcome).where(
    in_list(runs.c.delivery_id, "ids"), runs.c.outcome.in_([*OPEN_OUTCOMES, Outcome.DEAD])
)
WITH_RUNS = select(runs.c.delivery_id).where(in_list(runs.c.delivery_id, "ids"))
ENDED_AT = bindparam("ended_at", type_=UtcDateTime)
SET_STATE = (
    update(deliveries)
    .where(in_list(deliveries.c.id, "ids"))
    .values(
        state=bindparam("after"),
        settled_at=case((ENDED_AT.is_(None), None), else_=func.coalesce(deliveries.c.settled_at, ENDED_AT)),
    )
)


@dataclass(frozen=True, slots=True)
class SettledDelivery:
    """A delivery whose last open run has ended."""

    event: str | None
    received_at: datetime
    settled_at: datetime


def states_of(outcomes: Sequence[tuple[str, Outcome]]) -> dict[str, DeliveryState]:
    """Return the states of readable deliveries, by id, from the outcomes of all of their runs."""
    unsettled = _unsettled(outcomes)
    return {delivery_id: unsettled.get(delivery_id, DeliveryState.SETTLED) for delivery_id, _ in outcomes}


def refresh_states(conn: Connection, ids: Collection[str]) -> list[SettledDelivery]:
    """Update the states of deliveries, and return those that have no open run any more.

    Call it in the transaction that changed their runs.

    A first statement locks the rows, so that the next one sees what the transaction that had the lock committed: of
    two workers that end the last two runs of a delivery, the second one settles it.
    """
    if not ids:
        return []
    rows = {row.id: row for row in conn.execute(STATES, {"ids": ids})}
    before: dict[str, DeliveryState] = {key: row.state for key, row in rows.items()}
    unsettled = _unsettled((key, outcome) for key, outcome in conn.execute(UNSETTLED_RUNS, {"ids": list(before)}))
    unreadable = [key for key, state in before.items() if state is DeliveryState.UNREADABLE]
    if unreadable:  # one that has runs by now was decoded in the end
        decoded = set(conn.scalars(WITH_RUNS, {"ids": unreadable}))
        unsettled = dict.fromkeys(set(unreadable) - decoded, DeliveryState.UNREADABLE) | unsettled
    changed: dict[DeliveryState, list[str]] = {}
    for key, state in before.items():
        after = unsettled.get(key, DeliveryState.SETTLED)
        if after is not state:
            changed.setdefault(after, []).append(key)
    settled: list[SettledDelivery] = []
    for state, keys in changed.items():
        ended_at = datetime.now(UTC) if state.is_ended else None
        conn.execute(SET_STATE, {"ids": keys, "after": state, "ended_at": ended_at})
        if ended_at is not None:
            settled += [SettledDelivery(rows[key].event, rows[key].received_at, ended_at) for key in keys]
    return settled


def _unsettled(outcomes: Iterable[tuple[str, Outcome]]) -> dict[str, DeliveryState]:
    states: dict[str, DeliveryState] = {}
    for delivery_id, outcome in outcomes:
        if outcome in OPEN_OUTCOMES:
            states[delivery_id] = DeliveryState.RETRYING
        elif outcome is Outcome.DEAD:
            states.setdefault(delivery_id, DeliveryState.DEAD)
    return states
