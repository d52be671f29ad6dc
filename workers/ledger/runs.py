"""The runs: who may make one, and how it ended.

Every attempt has a number. A worker claims a run by raising its number, and ends it only while the number is still its
own: so a worker that was given up for dead and comes back can neither end nor undo what another one has done since.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, exists, select, update

from workers.ledger.among import among
from workers.ledger.bulk import insert_new
from workers.ledger.engine import chunks
from workers.ledger.inorder import Key, named
from workers.ledger.outcomes import Outcome
from workers.ledger.tables import runs, sessions

CLAIMABLE = (
    select(runs.c.delivery_id, runs.c.attempts)
    .where(runs.c.handler == bindparam("handler"), among(runs.c.delivery_id, "ids"))
    .where(runs.c.outcome.in_([Outcome.WAITING, Outcome.AGAIN, Outcome.DEAD]))
    .order_by(runs.c.delivery_id)
    .with_for_update()
)
CLAIM = (
    update(runs)
    .where(runs.c.handler == bindparam("of"), among(runs.c.delivery_id, "ids"))
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


def record_new(conn: Connection, rows: Sequence[NewRun]) -> set[Key]:
    """Record runs and return the keys of those that were not there: who gets a key back owns that run's effects."""
    made = insert_new(conn, runs, [_row(run) for run in rows])
    _catch_up(conn, [(run.delivery_id, run.handler) for run in rows if run.waits_for is not None])
    return {(delivery_id, handler) for delivery_id, handler in made}


def recorded(conn: Connection, delivery_ids: Collection[str]) -> set[Key]:
    """Return the keys of all the runs that these deliveries have."""
    found = conn.execute(select(runs.c.delivery_id, runs.c.handler).where(among(runs.c.delivery_id, delivery_ids)))
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


def finish(  # noqa: PLR0913 - the parts of an outcome, by name
    conn: Connection,
    delivery_id: str,
    handler: str,
    attempt: int,
    outcome: Outcome,
    *,
    finished_at: datetime,
    due_at: datetime | None = None,
    until_at: datetime | None = None,
    waits_for: str | None = None,
    reason: str | None = None,
    error: str | None = None,
    traceback: str | None = None,
) -> bool:
    """End an attempt; False, and nothing is changed, when the run is not in that attempt any more.

    A dead run keeps the id of its job; one to be tried again becomes `due` anew.
    """
    statement = (
        update(runs)
        .where(runs.c.delivery_id == delivery_id, runs.c.handler == handler)
        .where(runs.c.outcome == Outcome.RUNNING, runs.c.attempts == attempt)
        .values(
            outcome=outcome,
            finished_at=finished_at,
            due_at=due_at,
            until_at=until_at,
            waits_for=waits_for,
            reason=reason,
            error=error,
            traceback=traceback,
        )
    )
    if not outcome.is_final:
        statement = statement.values(job_id=None)
    ended = conn.execute(statement).rowcount == 1
    if ended and waits_for is not None:
        _catch_up(conn, [(delivery_id, handler)])
    return ended


def _row(run: NewRun) -> dict[str, Any]:
    return {name: getattr(run, name) for name in NewRun.__dataclass_fields__} | {"deaths": 0}


def _catch_up(conn: Connection, keys: Sequence[Key]) -> None:
    """Make runs due that began to wait for news of a session while the news came in: `wake` could not see them yet."""
    has_news = exists().where(sessions.c.session_id == runs.c.waits_for, sessions.c.updated_at > runs.c.started_at)
    for some in chunks(keys):
        conn.execute(update(runs).where(named(some), has_news).values(due_at=runs.c.finished_at))
