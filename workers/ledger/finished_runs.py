"""Runs that have ended: dead letters, and what a person replays."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, bindparam, delete, literal_column, or_, select, update

from ingest.queue.queues import BACKGROUND
from workers.ledger.database.conditions import in_list
from workers.ledger.delivery_states import refresh_states
from workers.ledger.recorded_runs import make_rows
from workers.ledger.runs import RunRecord, insert_runs, locked_update
from workers.ledger.states import FINAL_OUTCOMES, Outcome, PushState
from workers.ledger.tables.core_tables import deliveries, pushes, runs, sessions

REOPENED = {
    "outcome": Outcome.WAITING,
    "deaths": 0,
    "due_at": bindparam("now"),
    "until_at": None,
    "waits_for": None,
    "job_id": None,
    "finished_at": None,
}


@dataclass(frozen=True, slots=True)
class DeadRun:
    """A dead run, with what its dead letter shows."""

    delivery_id: str
    handler: str
    queue: str
    attempts: int
    error: str | None
    traceback: str | None
    kind: str
    event: str | None
    session_id: str | None
    started_at: datetime | None
    finished_at: datetime | None


def reopen(
    conn: Connection,
    delivery_ids: Collection[str],
    handler: str | None,
    now: datetime,
    outcomes: Iterable[Outcome] = (Outcome.DEAD, Outcome.MOOT),
) -> int:
    """Make final runs due now in the background, of one handler or of all, and return how many.

    Their attempts go on counting.
    """
    final = [outcome for outcome in outcomes if outcome.is_final]
    if Outcome.DONE in final:
        make_rows(conn, delivery_ids, BACKGROUND)
    conditions = [in_list(runs.c.delivery_id, delivery_ids), runs.c.outcome.in_(final)]
    if handler is not None:
        conditions.append(runs.c.handler == handler)
    count = conn.execute(locked_update(*conditions).values(queue=BACKGROUND, **REOPENED), {"now": now}).rowcount
    refresh_states(conn, delivery_ids)
    return count


def reopen_for_new_driver(
    conn: Connection, session_ids: Collection[str], handlers: Collection[str], now: datetime
) -> bool:
    """Make runs of these handlers due again that have pushed to someone who is no longer the driver of the session.

    They stay on their queues, as the new driver has as little time as the former one. Pushes whose time has passed stay
    as they are; those that still wait for the former driver are cancelled.
    """
    if not session_ids or not handlers:
        return False
    former = (
        select(pushes.c.id, pushes.c.delivery_id, pushes.c.handler)
        .join(sessions, sessions.c.session_id == pushes.c.session_id)
        .where(in_list(pushes.c.session_id, session_ids), in_list(pushes.c.handler, handlers))
        .where(pushes.c.user_id != sessions.c.user_id, pushes.c.expires_at > now)
    )
    found = conn.execute(former).all()
    for handler in sorted({row.handler for row in found}):
        pushed = in_list(runs.c.delivery_id, {row.delivery_id for row in found if row.handler == handler})
        again = locked_update(pushed, runs.c.handler == handler, runs.c.outcome == Outcome.DONE)
        conn.execute(again.values(**REOPENED), {"now": now})
    refresh_states(conn, {row.delivery_id for row in found})
    waiting = update(pushes).where(in_list(pushes.c.id, [row.id for row in found]), pushes.c.state == PushState.WAITING)
    conn.execute(waiting.values(state=PushState.MOOT, due_at=None, error="the session has another driver"))
    return bool(found)


def delete_finished(conn: Connection, delivery_ids: Collection[str], handler: str) -> None:
    """Delete final runs of a handler on these deliveries."""
    is_final = runs.c.outcome.in_(FINAL_OUTCOMES)
    conn.execute(delete(runs).where(in_list(runs.c.delivery_id, delivery_ids), runs.c.handler == handler, is_final))


def unpublished_dead(conn: Connection, prefix: str, limit: int) -> list[DeadRun]:
    """List dead runs whose job id lacks the prefix: their dead letters are not published yet."""
    is_dead = runs.c.outcome == literal_column("'dead'")  # a literal, as `IS_RUNNING` is
    after = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    query = (
        select(*((runs.c if name in runs.c else deliveries.c)[name] for name in DeadRun.__match_args__))
        .join_from(runs, deliveries, runs.c.delivery_id == deliveries.c.id)
        .where(is_dead, or_(runs.c.job_id.is_(None), runs.c.job_id < prefix, runs.c.job_id >= after))
        .limit(limit)
    )
    return [DeadRun(*row) for row in conn.execute(query)]


def mark_published(conn: Connection, run: DeadRun, job_id: str) -> bool:
    """Record the failed job of a dead run; return False if the run has been reopened."""
    same = and_(runs.c.delivery_id == run.delivery_id, runs.c.handler == run.handler, runs.c.attempts == run.attempts)
    return conn.execute(update(runs).where(same, runs.c.outcome == Outcome.DEAD).values(job_id=job_id)).rowcount > 0


def insert_missing(conn: Connection, rows: Sequence[RunRecord]) -> None:
    """Insert runs of handlers that did not exist when the deliveries came."""
    refresh_states(conn, {delivery_id for delivery_id, _ in insert_runs(conn, rows)})
