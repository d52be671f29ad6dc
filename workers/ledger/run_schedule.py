"""Runs that have not ended: which are due, enqueued, running, crashed or expired."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    select,
    tuple_,
    update,
)

from ingest.queue.queues import BACKGROUND
from workers.ledger.database.conditions import in_list
from workers.ledger.database.engine import chunks
from workers.ledger.delivery_states import refresh_states
from workers.ledger.runs import RunKey, locked_update
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import runs

# A literal instead of a parameter: SQLite uses its partial index of running runs for it only.
MAX_DUE = 1000
IS_RUNNING = runs.c.outcome == literal_column("'running'")
# Not `IS NOT NULL`, for which SQLite would prefer its index of all due runs.
HAS_JOB = runs.c.job_id > literal_column("''")

READY = and_(runs.c.due_at.is_not(None), runs.c.job_id.is_(None))
FIRST_READY = (
    select(runs.c.queue, runs.c.handler, runs.c.due_at)
    .where(READY, tuple_(runs.c.queue, runs.c.handler) > tuple_(bindparam("queue"), bindparam("handler")))
    .order_by(runs.c.queue, runs.c.handler, runs.c.due_at)
    .limit(1)
)

SET_JOB = (
    update(runs)
    .where(runs.c.delivery_id == bindparam("of"), runs.c.handler == bindparam("by"), runs.c.due_at.is_not(None))
    .values(job_id=bindparam("job"))
)
WAKE = locked_update(in_list(runs.c.waits_for, "ids"), runs.c.due_at > bindparam("now"), skip_locked=True).values(
    due_at=bindparam("now")
)


#: A queue and a handler: their runs share jobs.
RunGroup = tuple[str, str]


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has not ended; `attempt` is the number of its current attempt, or of the next one."""

    delivery_id: str
    handler: str
    queue: str
    attempt: int
    #: The RQ job in which it is enqueued or running.
    job_id: str | None
    #: Whether a worker has crashed during it: it gets a job of its own, so that only the run to blame is given up.
    has_crashed: bool = False

    @property
    def key(self) -> RunKey:
        """The run's key."""
        return self.delivery_id, self.handler


def due_groups(conn: Connection, now: datetime) -> list[RunGroup]:
    """List the queues and handlers that have due runs without a job, by one look at the index for each."""
    groups: list[RunGroup] = []
    after = ("", "")
    while first := conn.execute(FIRST_READY, {"queue": after[0], "handler": after[1]}).first():
        after = (first.queue, first.handler)
        if first.due_at <= now:
            groups.append(after)
    return groups


def due(conn: Connection, group: RunGroup, now: datetime, limit: int) -> list[OpenRun]:
    """List a group's due runs without a job, the longest due first, locked for the transaction that enqueues them."""
    queue, handler = group
    waiting = _select(runs.c.attempts + 1).where(
        runs.c.queue == queue, runs.c.handler == handler, runs.c.due_at <= now, runs.c.job_id.is_(None)
    )
    return _open(conn, waiting.order_by(runs.c.due_at).limit(limit).with_for_update(skip_locked=True))


def job_counts(conn: Connection) -> dict[RunGroup, int]:
    """Return how many jobs of each group are enqueued and not claimed yet."""
    count = select(runs.c.queue, runs.c.handler, func.count(runs.c.job_id.distinct()))
    found = conn.execute(count.where(runs.c.due_at.is_not(None), HAS_JOB).group_by(runs.c.queue, runs.c.handler))
    return {(queue, handler): jobs for queue, handler, jobs in found}


def set_jobs(conn: Connection, jobs: Mapping[RunKey, str | None]) -> None:
    """Record the job of each run, before the job is written: so none is written twice. Without one it is due again."""
    if jobs:
        ordered = sorted(jobs.items(), key=itemgetter(0))
        conn.execute(SET_JOB, [{"of": delivery_id, "by": name, "job": job} for (delivery_id, name), job in ordered])


def enqueued(conn: Connection) -> list[OpenRun]:
    """List runs with a job that are not claimed yet."""
    return _open(conn, _select(runs.c.attempts + 1).where(runs.c.due_at.is_not(None), HAS_JOB))


def running(conn: Connection) -> list[OpenRun]:
    """List claimed runs."""
    return _open(conn, _select(runs.c.attempts).where(IS_RUNNING))


def oldest_due(conn: Connection, now: datetime) -> dict[str, datetime]:
    """Return since when a run has been due for its first attempt, by queue, among those that are due the longest."""
    waiting = runs.c.outcome == Outcome.WAITING
    query = select(runs.c.queue, runs.c.due_at).where(runs.c.due_at <= now, waiting)
    oldest: dict[str, datetime] = {}
    for queue, due_at in conn.execute(query.order_by(runs.c.due_at).limit(MAX_DUE)):
        oldest.setdefault(queue, due_at)
    return oldest


def fail_crashed(
    conn: Connection, crashed: Sequence[OpenRun], *, now: datetime, deaths_allowed: int, error: str
) -> list[tuple[OpenRun, Outcome]]:
    """End the attempts of crashed workers: each run is due now in the background, or dead when it has crashed too many.

    Returns the runs that were still in the attempt given, with their outcomes.
    """
    is_last = runs.c.deaths + 1 >= deaths_allowed
    values = {
        "outcome": case((is_last, Outcome.DEAD), else_=Outcome.AGAIN),
        "queue": case((is_last, runs.c.queue), else_=BACKGROUND),
        "deaths": runs.c.deaths + 1,
        "due_at": case((is_last, None), else_=now),
        "until_at": case((is_last, None), else_=runs.c.until_at),
        "reason": None,
        "error": error,
        "traceback": None,
    }
    return _end_attempts(conn, crashed, job_id=None, finished_at=now, **values)


def release(conn: Connection, handed_back: Sequence[OpenRun], *, now: datetime, reason: str) -> list[OpenRun]:
    """End attempts that their workers handed back: each run is due now, and its crashes are not counted.

    Returns the runs that were still in the attempt given.
    """
    values = {"outcome": Outcome.AGAIN, "due_at": now, "job_id": None, "finished_at": now, "reason": reason}
    return [run for run, _ in _end_attempts(conn, handed_back, **values)]


def defer(conn: Connection, claimed: Sequence[OpenRun], *, now: datetime, queue: str | None) -> None:
    """Undo the claims of attempts that were not begun: each run is due now, on another queue if one is given."""
    values: dict[str, object] = {
        "outcome": case((runs.c.attempts == 1, Outcome.WAITING), else_=Outcome.AGAIN),
        "attempts": runs.c.attempts - 1,
        "queue": runs.c.queue if queue is None else queue,
    }
    _end_attempts(conn, claimed, **values, due_at=now, job_id=None, started_at=None)


def wake_waiting(conn: Connection, session_ids: Collection[str], now: datetime) -> int:
    """Make runs due that wait for news of these sessions; return how many.

    One that is being claimed at this moment is skipped: it will see the news anyway.
    """
    return conn.execute(WAKE, {"ids": session_ids, "now": now}).rowcount


def expire(conn: Connection, now: datetime) -> list[RunKey]:
    """End open runs as moot whose `until_at` has passed, with their last reasons; return their keys."""
    statement = (
        locked_update(runs.c.until_at <= now, runs.c.due_at.is_not(None), skip_locked=True)
        .values(outcome=Outcome.MOOT, due_at=None, until_at=None, waits_for=None, job_id=None, finished_at=now)
        .returning(runs.c.delivery_id, runs.c.handler)
    )
    expired = sorted((delivery_id, handler) for delivery_id, handler in conn.execute(statement))
    refresh_states(conn, {delivery_id for delivery_id, _ in expired})
    return expired


def _end_attempts(conn: Connection, ended: Sequence[OpenRun], **values: object) -> list[tuple[OpenRun, Outcome]]:
    """Change those of the runs that are still in the attempt given; return them with their outcomes."""
    attempt = runs.c.delivery_id, runs.c.handler, runs.c.attempts
    wanted = {run.key: run for run in ended}
    changed: list[tuple[OpenRun, Outcome]] = []
    for some in chunks(sorted((*run.key, run.attempt) for run in ended)):
        statement = locked_update(tuple_(*attempt).in_(list(some)), IS_RUNNING).values(**values)
        for delivery_id, handler, outcome in conn.execute(statement.returning(*attempt[:2], runs.c.outcome)):
            changed.append((wanted[delivery_id, handler], outcome))
    refresh_states(conn, {run.delivery_id for run, _ in changed})
    return changed


def _select(attempt: ColumnElement[int]) -> Select[Any]:
    return select(runs.c.delivery_id, runs.c.handler, runs.c.queue, attempt, runs.c.job_id, runs.c.deaths > 0)


def _open(conn: Connection, query: Select[Any]) -> list[OpenRun]:
    return [OpenRun(*row) for row in conn.execute(query)]
