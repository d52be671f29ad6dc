"""The runs: who may make one, and how it ended.

Every attempt has a number. A worker claims a run by raising its number, and ends it only while the number is still its
own: so a worker that was given up for dead and comes back can neither end nor undo what another one has done since.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from workers.ledger.database.bulk_insert import insert_new
from workers.ledger.database.in_list import in_list
from workers.ledger.ordered_update import RunKey
from workers.ledger.states import Outcome
from workers.ledger.tables.core import runs

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
# Locked, so that who ends a run that it finds in its own attempt is not too late with it.
CLAIMED = (
    select(runs.c.delivery_id, runs.c.attempts, runs.c.job_id)
    .where(runs.c.handler == bindparam("handler"), in_list(runs.c.delivery_id, "ids"))
    .where(runs.c.outcome == Outcome.RUNNING)
    .order_by(runs.c.delivery_id)
    .with_for_update()
)
END = update(runs).where(runs.c.delivery_id == bindparam("of"), runs.c.handler == bindparam("by"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run to be recorded: one that is to come (waiting), or one already made in its batch's own job."""

    delivery_id: str
    handler: str
    queue: str
    outcome: Outcome
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """What came of an attempt at a run that was claimed."""

    delivery_id: str
    attempt: int
    outcome: Outcome
    finished_at: datetime
    due_at: datetime | None = None
    until_at: datetime | None = None
    waits_for: str | None = None
    reason: str | None = None
    error: str | None = None
    traceback: str | None = None


def insert_runs(conn: Connection, rows: Sequence[NewRun]) -> set[RunKey]:
    """Record runs and return the keys of those that were not there: who gets a key back owns that run's effects."""
    return {(delivery_id, handler) for delivery_id, handler in insert_new(conn, runs, [_row(run) for run in rows])}


def existing(conn: Connection, delivery_ids: Collection[str]) -> set[RunKey]:
    """Return the keys of all the runs that these deliveries have."""
    found = conn.execute(select(runs.c.delivery_id, runs.c.handler).where(in_list(runs.c.delivery_id, delivery_ids)))
    return {(delivery_id, handler) for delivery_id, handler in found}


def claim(
    conn: Connection, handler: str, attempts: Sequence[tuple[str, int]], job_id: str, now: datetime
) -> list[tuple[str, int]]:
    """Take runs on, each for the attempt it was offered for; return those that are ours, with their attempts.

    A dead run can be taken on as well: by the job that a person has put back on its queue.
    """
    offered = dict(attempts)
    found = conn.execute(CLAIMABLE, {"handler": handler, "ids": list(offered)})
    ours = {delivery_id: before + 1 for delivery_id, before in found if offered[delivery_id] == before + 1}
    if ours:
        conn.execute(CLAIM, {"of": handler, "ids": list(ours), "by": job_id, "at": now})
    return sorted(ours.items())


def finish(conn: Connection, handler: str, ended: Sequence[EndedRun]) -> set[str]:
    """End attempts at runs of a handler, and return the ids of the deliveries whose runs were still in them.

    Nothing is changed of the others. One to be tried again becomes `due` anew; one that is dead, `unfiled`.
    """
    found = conn.execute(CLAIMED, {"handler": handler, "ids": [run.delivery_id for run in ended]})
    claimed = {(delivery_id, attempt): job_id for delivery_id, attempt, job_id in found}
    ours = [run for run in ended if (run.delivery_id, run.attempt) in claimed]
    if ours:
        conn.execute(END, [_ending(run, handler, claimed[run.delivery_id, run.attempt]) for run in ours])
    return {run.delivery_id for run in ours}


def _row(run: NewRun) -> dict[str, Any]:
    return {name: getattr(run, name) for name in NewRun.__dataclass_fields__} | {"deaths": 0}


def _ending(run: EndedRun, handler: str, job_id: str) -> dict[str, Any]:
    return {
        "of": run.delivery_id,
        "by": handler,
        "outcome": run.outcome,
        # Not of one that is dead: it may be the job of a dead letter that was put back, and is wanted as one again.
        "job_id": job_id if run.outcome.is_final and run.outcome is not Outcome.DEAD else None,
        "finished_at": run.finished_at,
        "due_at": run.due_at,
        "until_at": run.until_at,
        "waits_for": run.waits_for,
        "reason": run.reason,
        "error": run.error,
        "traceback": run.traceback,
    }
