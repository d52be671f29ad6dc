"""Runs: who may make one, and how it ended.

Every attempt has a number. A worker claims a run by raising its number, and ends it only while the number is still its
own (a fencing token): a worker that was given up as dead and comes back changes nothing that others have done since.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Update, bindparam, func, select, tuple_, update

from workers.ledger.database.bulk_insert import insert_new
from workers.ledger.database.conditions import Unindexed, in_list
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import runs

#: A run's key: the delivery's id and the handler's name.
RunKey = tuple[str, str]

CLAIMABLE = (
    select(runs.c.delivery_id, runs.c.attempts)
    .where(runs.c.handler == bindparam("handler"), in_list(runs.c.delivery_id, "ids"))
    .where(runs.c.outcome.in_([Outcome.WAITING, Outcome.AGAIN, Outcome.DEAD]))
    .order_by(runs.c.delivery_id)
    .with_for_update()
)
CLAIM = (
    update(runs)
    .where(runs.c.handler == bindparam("of"), in_list(runs.c.delivery_id, "ids"))
    .values(
        outcome=Outcome.RUNNING,
        attempts=runs.c.attempts + 1,
        job_id=bindparam("by"),
        started_at=bindparam("at"),
        finished_at=None,
        due_at=None,
        waits_for=None,
    )
)
# Locked, so that the attempt is still the run's own when its end is written.
CLAIMED = (
    select(runs.c.delivery_id, runs.c.attempts, runs.c.job_id)
    .where(runs.c.handler == bindparam("handler"), in_list(runs.c.delivery_id, "ids"))
    .where(runs.c.outcome == Outcome.RUNNING)
    .order_by(runs.c.delivery_id)
    .with_for_update()
)
FINISH = (
    update(runs)
    .where(runs.c.delivery_id == bindparam("of"), runs.c.handler == bindparam("by"))
    .values(queue=func.coalesce(bindparam("next_queue"), runs.c.queue))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run of one handler on a delivery: one that is to come (waiting), or what came of an attempt."""

    delivery_id: str
    handler: str
    outcome: Outcome
    queue: str | None = None
    """The queue of its next job; None: unchanged."""
    attempts: int = 0
    due_at: datetime | None = None
    until_at: datetime | None = None
    waits_for: str | None = None
    job_id: str | None = None
    reason: str | None = None
    error: str | None = None
    traceback: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


COLUMNS = tuple(field.name for field in fields(RunRecord))
column_values = attrgetter(*COLUMNS)
ENDING = ("outcome", "finished_at", "due_at", "until_at", "waits_for", "reason", "error", "traceback")


def insert_runs(conn: Connection, rows: Sequence[RunRecord], queue: str | None = None) -> set[RunKey]:
    """Insert runs and return the keys of the new ones: the transaction that gets a key back owns the run's effects.

    `queue` is for the runs that name none.
    """
    values = [dict(zip(COLUMNS, column_values(run), strict=True), deaths=0, queue=run.queue or queue) for run in rows]
    return {(delivery_id, handler) for delivery_id, handler in insert_new(conn, runs, values)}


def claim(
    conn: Connection, handler: str, attempts: Sequence[tuple[str, int]], job_id: str, now: datetime
) -> list[tuple[str, int]]:
    """Claim runs, each for the attempt it was enqueued for; return the claimed ones with their attempts.

    A dead run can be claimed too: by the failed job that a person has put back on its queue.
    """
    enqueued = dict(attempts)
    found = conn.execute(CLAIMABLE, {"handler": handler, "ids": list(enqueued)})
    ours = {delivery_id: before + 1 for delivery_id, before in found if enqueued[delivery_id] == before + 1}
    if ours:
        conn.execute(CLAIM, {"of": handler, "ids": list(ours), "by": job_id, "at": now})
    return sorted(ours.items())


def finish(conn: Connection, handler: str, ended: Sequence[RunRecord]) -> set[str]:
    """End claimed runs of a handler, and return the deliveries whose runs were still in the attempt given.

    The others stay unchanged. One to be tried again becomes `due`; a dead one `unpublished`.
    """
    found = conn.execute(CLAIMED, {"handler": handler, "ids": [run.delivery_id for run in ended]})
    claimed = {(delivery_id, attempt): job_id for delivery_id, attempt, job_id in found}
    ours = [run for run in ended if (run.delivery_id, run.attempts) in claimed]
    if ours:
        conn.execute(FINISH, [_ending(run, handler, claimed[run.delivery_id, run.attempts]) for run in ours])
    return {run.delivery_id for run in ours}


def locked_update(*conditions: ColumnElement[bool], skip_locked: bool = False) -> Update:
    """Build an UPDATE of the matching runs that locks them in the order of their keys, so that workers never deadlock.

    `skip_locked` leaves out runs that another transaction is changing.
    """
    matching = (
        select(runs.c.delivery_id, runs.c.handler)
        .where(*conditions)
        # Not by the key's index: SQLite would scan it whole to save a sort of a few rows.
        .order_by(Unindexed(runs.c.delivery_id), Unindexed(runs.c.handler))
        .with_for_update(skip_locked=skip_locked)
        .correlate(None)
    )
    return update(runs).where(tuple_(runs.c.delivery_id, runs.c.handler).in_(matching))


def _ending(run: RunRecord, handler: str, job_id: str) -> dict[str, Any]:
    # A dead run keeps no job: the job may be a requeued dead letter, and the run needs a new one.
    is_kept = run.outcome.is_final and run.outcome is not Outcome.DEAD
    ending = {name: getattr(run, name) for name in ENDING}
    key = {"of": run.delivery_id, "by": handler}
    return ending | key | {"next_queue": run.queue, "job_id": job_id if is_kept else None}


def handlers_of(conn: Connection, *where: ColumnElement[bool]) -> list[str]:
    """List the handlers of these runs, by a loose scan of an index that begins with them."""
    found: list[str] = []
    while True:
        query = select(func.min(runs.c.handler)).where(*where)
        last = conn.scalar(query.where(runs.c.handler > found[-1]) if found else query)
        if last is None:
            return found
        found.append(last)
