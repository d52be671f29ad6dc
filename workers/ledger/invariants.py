"""Check the ledger's invariants, in bounded memory and with few passes over its large tables.

Where rows that break a rule could be anywhere, one query looks for all rules of a table at once. A row's partner in
another table is looked up in the order of their ids: in any other order each lookup would read another page.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    union,
)

from ingest.queue.batch import DRIVE_API
from workers.ledger.database.conditions import Unindexed
from workers.ledger.deliveries import has_state, is_event
from workers.ledger.recorded_runs import is_recorded_by
from workers.ledger.states import (
    ENDED_STATES,
    OPEN_OUTCOMES,
    WHOLE_DELIVERY,
    BodyDeletion,
    DeliveryState,
    Outcome,
    PushState,
)
from workers.ledger.tables.core_tables import COMMON_EVENTS, deliveries, pushes, runs

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
    for rows, rules in _row_rules().items():
        if conn.execute(rows.where(or_(*rules.values())).limit(1)).first() is not None:
            for rule, condition in rules.items():
                yield from _broken(conn, rule, rows.where(condition))
    for rule, query in _rules().items():
        yield from _broken(conn, rule, query)


def missed_handlers(
    conn: Connection, wanted: Mapping[str, Sequence[str]], *, rollout: timedelta = ROLLOUT
) -> Iterator[Violation]:
    """Yield settled deliveries without an outcome of a handler that had run before they came.

    `wanted` has the events that each handler takes. Handlers that were not loaded for a while are found too.
    Deliveries stored up to `rollout` after the first run are left out.
    """
    if not wanted:
        return
    first_starts = (func.min(case((runs.c.handler == handler, runs.c.started_at))) for handler in wanted)
    first_records = (func.min(case((is_recorded_by(handler), deliveries.c.stored_at))) for handler in wanted)
    firsts = (conn.execute(select(*each)).one() for each in (first_starts, first_records))
    for (handler, events), *times in zip(wanted.items(), *firsts, strict=True):
        began_at = min((at for at in times if at is not None), default=None)
        if began_at is None or not events:
            continue
        is_poison = and_(runs.c.handler == WHOLE_DELIVERY, runs.c.outcome == Outcome.DEAD)
        query = DELIVERIES.where(
            is_event(*events),
            deliveries.c.settled_at.is_not(None),
            deliveries.c.state != DeliveryState.UNREADABLE,
            deliveries.c.stored_at > began_at + rollout,
            deliveries.c.inbox != DRIVE_API,  # only handlers that ask for it get what nobody sent
            not_(_has_run(is_poison)),
            not_(is_recorded_by(handler)),
            deliveries.c.body_deletion.is_distinct_from(BodyDeletion.ERASURE),  # no handler sees what comes after it
        )
        is_rare = COMMON_EVENTS.isdisjoint(events)  # then there is an index of them
        query = query.where(not_(_has_run(runs.c.handler == handler))) if is_rare else _without_run(query, handler)
        yield from _broken(conn, f"{handler} takes these settled deliveries, and has no outcome for them", query)


def _row_rules() -> dict[Select[Any], dict[str, ColumnElement[bool]]]:
    """Return the rules about single rows."""
    is_to_come = runs.c.outcome.in_([Outcome.WAITING, Outcome.AGAIN])
    is_final = runs.c.outcome.not_in(sorted(OPEN_OUTCOMES))
    is_ended = deliveries.c.state.in_(sorted(ENDED_STATES))
    return {
        DELIVERIES: {
            "a delivery is settled, dead or unreadable exactly if it has ended": is_ended
            != deliveries.c.settled_at.is_not(None),
        },
        RUNS: {
            "a run is due exactly if it is to come": runs.c.due_at.is_not(None) != is_to_come,
            "a run that is made has a job and a beginning": and_(
                runs.c.outcome == Outcome.RUNNING, or_(runs.c.job_id.is_(None), runs.c.started_at.is_(None))
            ),
            "a run that is over has ended, and waits for nothing": and_(
                is_final, or_(runs.c.finished_at.is_(None), runs.c.waits_for.is_not(None), runs.c.due_at.is_not(None))
            ),
            "a run that is done was not given up": and_(runs.c.outcome == Outcome.DONE, runs.c.error.is_not(None)),
        },
        PUSHES: {
            "a push is due exactly if it waits": pushes.c.due_at.is_not(None) != (pushes.c.state == PushState.WAITING),
            "a push that was sent has a time of that": and_(
                pushes.c.state == PushState.SENT, or_(pushes.c.sent_at.is_(None), pushes.c.attempts == 0)
            ),
        },
    }


def _rules() -> dict[str, Select[Any]]:
    """Return the queries for what breaks a rule about rows of two tables, each with the rule."""
    is_open = runs.c.outcome.in_(sorted(OPEN_OUTCOMES))
    state = Unindexed(deliveries.c.state)  # what matters is which runs there are
    of_runs = select(runs.c.delivery_id)
    is_running, is_dead = (runs.c.outcome == literal_column(f"'{each}'") for each in (Outcome.RUNNING, Outcome.DEAD))
    open_runs = union(of_runs.where(runs.c.due_at.is_not(None)), of_runs.where(is_running))
    return {
        "a settled delivery has an outcome": _without_run(
            DELIVERIES.where(
                state.in_(sorted(ENDED_STATES - {DeliveryState.UNREADABLE})), deliveries.c.recorded_by.is_(None)
            )
        ),
        "a delivery that has ended has no open run": DELIVERIES.where(
            state.in_(sorted(ENDED_STATES)), deliveries.c.id.in_(open_runs)
        ),
        "a dead delivery has a dead run": DELIVERIES.where(
            # The index of dead runs has all of them, and each would be looked at for each delivery.
            has_state(DeliveryState.DEAD),
            not_(_has_run(Unindexed(runs.c.outcome) == Outcome.DEAD)),
        ),
        "a settled delivery has no dead run": DELIVERIES.where(
            state == DeliveryState.SETTLED, deliveries.c.id.in_(of_runs.where(is_dead))
        ),
        "a delivery that is retried has an open run": DELIVERIES.where(
            has_state(DeliveryState.RETRYING), not_(_has_run(is_open))
        ),
        "a delivery whose handlers are at work has not all its outcomes": DELIVERIES.where(
            has_state(DeliveryState.RUNNING), _has_run(), not_(_has_run(is_open))
        ),
        "a run belongs to a delivery": RUNS.where(not_(exists().where(deliveries.c.id == runs.c.delivery_id))),
        "a push belongs to a run": PUSHES.where(
            not_(exists().where(runs.c.delivery_id == pushes.c.delivery_id, runs.c.handler == pushes.c.handler))
        ),
    }


def _without_run(query: Select[Any], handler: str | None = None) -> Select[Any]:
    """Narrow a query of deliveries to those without a run, of the handler if one is given.

    The ids come first and alone, so that SQLite walks through the primary keys of both tables in one order.
    """
    listed = deliveries.alias("listed")
    of_handler = () if handler is None else (runs.c.handler == handler,)
    without = not_(exists().where(runs.c.delivery_id == listed.c.id, *of_handler))
    ids = select(listed.c.id).where(without).cte("without_run").prefix_with("MATERIALIZED", dialect="sqlite")
    return query.join(ids, ids.c.id == deliveries.c.id)


def _broken(conn: Connection, rule: str, query: Select[Any]) -> Iterator[Violation]:
    # Counted first: for the first few rows PostgreSQL would look up each row's partners one by one.
    count = conn.scalar(select(func.count()).select_from(query.subquery()))
    if count:
        examples = tuple(" ".join(row) for row in conn.execute(query.limit(EXAMPLES)))
        yield Violation(rule, count, examples)


def _has_run(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(and_(runs.c.delivery_id == deliveries.c.id, *conditions))
