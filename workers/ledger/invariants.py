"""Check the ledger's invariants, each with one query and in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, not_, or_, select

from workers.ledger.states import ENDED_STATES, OPEN_OUTCOMES, WHOLE_DELIVERY, DeliveryState, Outcome, PushState
from workers.ledger.tables.core_tables import deliveries, pushes, runs

EXAMPLES = 3
"""How many rows that break a rule are listed."""

DELIVERIES = select(deliveries.c.id)
RUNS = select(runs.c.delivery_id, runs.c.handler)
PUSHES = select(pushes.c.id)

ROLLOUT = timedelta(minutes=10)
"""How long after a handler's first run there may be workers that do not know it yet."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Rows that break a rule: their number, and the ids of the first few."""

    rule: str
    count: int
    examples: tuple[str, ...]


def check_invariants(conn: Connection) -> Iterator[Violation]:
    """Yield the violations of rules that hold at the end of every transaction."""
    for rule, query in _rules().items():
        yield from _broken(conn, rule, query)


def missed_handlers(
    conn: Connection, wanted: Mapping[str, Sequence[str]], *, rollout: timedelta = ROLLOUT
) -> Iterator[Violation]:
    """Yield settled deliveries without an outcome of a handler that had run before they came.

    `wanted` has the events that each handler takes. Handlers that were not loaded for a while are found too.
    Deliveries stored up to `rollout` after the first run are left out.
    """
    for handler, events in wanted.items():
        began_at = conn.scalar(select(func.min(runs.c.started_at)).where(runs.c.handler == handler))
        if began_at is None:
            continue
        is_poison = and_(runs.c.handler == WHOLE_DELIVERY, runs.c.outcome == Outcome.DEAD)
        query = DELIVERIES.where(
            deliveries.c.event.in_(list(events)),
            deliveries.c.settled_at.is_not(None),
            deliveries.c.state != DeliveryState.UNREADABLE,
            deliveries.c.stored_at > began_at + rollout,
            not_(_has_run(or_(runs.c.handler == handler, is_poison))),
        )
        yield from _broken(conn, f"{handler} takes these settled deliveries, and has no outcome for them", query)


def _rules() -> dict[str, Select[Any]]:
    is_ended = deliveries.c.state.in_(sorted(ENDED_STATES))
    is_open = runs.c.outcome.in_(sorted(OPEN_OUTCOMES))
    is_to_come = runs.c.outcome.in_([Outcome.WAITING, Outcome.AGAIN])
    is_final = not_(is_open)
    return {
        "a settled delivery has an outcome": DELIVERIES.where(
            is_ended, deliveries.c.state != DeliveryState.UNREADABLE, not_(_has_run())
        ),
        "a delivery that has ended has no open run": DELIVERIES.where(is_ended, _has_run(is_open)),
        "a delivery is settled, dead or unreadable exactly if it has ended": DELIVERIES.where(
            is_ended != deliveries.c.settled_at.is_not(None)
        ),
        "a dead delivery has a dead run": DELIVERIES.where(
            deliveries.c.state == DeliveryState.DEAD, not_(_has_run(runs.c.outcome == Outcome.DEAD))
        ),
        "a settled delivery has no dead run": DELIVERIES.where(
            deliveries.c.state == DeliveryState.SETTLED, _has_run(runs.c.outcome == Outcome.DEAD)
        ),
        "a delivery that is retried has an open run": DELIVERIES.where(
            deliveries.c.state == DeliveryState.RETRYING, not_(_has_run(is_open))
        ),
        "a delivery whose handlers are at work has not all its outcomes": DELIVERIES.where(
            deliveries.c.state == DeliveryState.RUNNING, _has_run(), not_(_has_run(is_open))
        ),
        "a run is due exactly if it is to come": RUNS.where(runs.c.due_at.is_not(None) != is_to_come),
        "a run that is made has a job and a beginning": RUNS.where(
            runs.c.outcome == Outcome.RUNNING, or_(runs.c.job_id.is_(None), runs.c.started_at.is_(None))
        ),
        "a run that is over has ended, and waits for nothing": RUNS.where(
            is_final, or_(runs.c.finished_at.is_(None), runs.c.waits_for.is_not(None), runs.c.due_at.is_not(None))
        ),
        "a run that is done was not given up": RUNS.where(runs.c.outcome == Outcome.DONE, runs.c.error.is_not(None)),
        "a run belongs to a delivery": RUNS.where(not_(exists().where(deliveries.c.id == runs.c.delivery_id))),
        "a push is due exactly if it waits": PUSHES.where(
            pushes.c.due_at.is_not(None) != (pushes.c.state == PushState.WAITING)
        ),
        "a push that was sent has a time of that": PUSHES.where(
            pushes.c.state == PushState.SENT, or_(pushes.c.sent_at.is_(None), pushes.c.attempts == 0)
        ),
        "a push belongs to a run": PUSHES.where(
            not_(exists().where(runs.c.delivery_id == pushes.c.delivery_id, runs.c.handler == pushes.c.handler))
        ),
    }


def _broken(conn: Connection, rule: str, query: Select[Any]) -> Iterator[Violation]:
    found = conn.execute(query.limit(EXAMPLES)).all()
    if found:
        count = conn.scalar(select(func.count()).select_from(query.subquery())) or len(found)
        yield Violation(rule, count, tuple(" ".join(row) for row in found))


def _has_run(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(and_(runs.c.delivery_id == deliveries.c.id, *conditions))
