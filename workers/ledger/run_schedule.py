"""The runs that are not over: which are due, offered, running, lost or overdue."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, case, literal_column, select, tuple_, update

from workers.ledger.database.engine import chunks
from workers.ledger.database.in_list import in_list
from workers.ledger.delivery_states import refresh_states
from workers.ledger.ordered_update import RunKey, locked_update
from workers.ledger.states import Outcome
from workers.ledger.tables.core import runs

# Written out instead of bound, or SQLite could not see that its partial index of running runs applies.
IS_RUNNING = runs.c.outcome == literal_column("'running'")
# Not merely `IS NOT NULL`, or SQLite would prefer its index of all runs to come.
HAS_JOB = runs.c.job_id > literal_column("''")

SET_JOB = (
    update(runs)
    .where(runs.c.delivery_id == bindparam("of"), runs.c.handler == bindparam("by"), runs.c.due_at.is_not(None))
    .values(job_id=bindparam("job"))
)
WAKE = locked_update(in_list(runs.c.waits_for, "ids"), runs.c.due_at > bindparam("now"), skip_locked=True).values(
    due_at=bindparam("now")
)


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that is not over; `attempt` is the number of its present attempt, or of the next one."""

    delivery_id: str
    handler: str
    queue: str
    attempt: int
    #: The RQ job it was offered in or is running in.
    job_id: str | None
    #: Its last attempt raised an error or killed its worker.
    has_failed: bool = False

    @property
    def key(self) -> RunKey:
        """The run's name."""
        return self.delivery_id, self.handler


def due(conn: Connection, now: datetime, limit: int) -> list[OpenRun]:
    """List runs whose time has come and that no job was made for, the longest due first; nobody else gets them then.

    Call it in the transaction that marks them as offered.
    """
    waiting = _under(runs.c.attempts + 1).where(runs.c.due_at <= now, runs.c.job_id.is_(None))
    return _open(conn, waiting.order_by(runs.c.due_at).limit(limit).with_for_update(skip_locked=True))


def mark_offered(conn: Connection, jobs: Mapping[RunKey, str]) -> None:
    """Note the job that each run is put in; before the job is made, so that none is made twice."""
    _set_job(conn, jobs)


def enqueued(conn: Connection) -> list[OpenRun]:
    """List runs that a job was made for and that nobody has claimed yet."""
    return _open(conn, _under(runs.c.attempts + 1).where(runs.c.due_at.is_not(None), HAS_JOB))


def clear_job(conn: Connection, keys: Iterable[RunKey]) -> None:
    """Forget the jobs of runs whose jobs are gone: they are `due` again."""
    _set_job(conn, dict.fromkeys(keys))


def running(conn: Connection) -> list[OpenRun]:
    """List the runs that somebody has claimed and not ended."""
    return _open(conn, _under(runs.c.attempts).where(IS_RUNNING))


def fail_crashed(
    conn: Connection, gone: Sequence[OpenRun], *, now: datetime, deaths_allowed: int, error: str
) -> list[tuple[OpenRun, Outcome]]:
    """Give up the attempts of workers that died: each is due again now, or dead when workers died of it too often.

    Returns those that were still running in the attempt given, with what has become of them.
    """
    wanted = {(run.delivery_id, run.handler, run.attempt): run for run in gone}
    changed: list[tuple[OpenRun, Outcome]] = []
    is_last = runs.c.deaths + 1 >= deaths_allowed
    for some in chunks(sorted(wanted)):
        statement = (
            locked_update(_in_attempts(some), IS_RUNNING)
            .values(
                outcome=case((is_last, Outcome.DEAD), else_=Outcome.AGAIN),
                deaths=runs.c.deaths + 1,
                due_at=case((is_last, None), else_=now),
                until_at=case((is_last, None), else_=runs.c.until_at),
                job_id=None,
                finished_at=now,
                reason=None,
                error=error,
                traceback=None,
            )
            .returning(runs.c.delivery_id, runs.c.handler, runs.c.attempts, runs.c.outcome)
        )
        for delivery_id, handler, attempt, outcome in conn.execute(statement):
            changed.append((wanted[delivery_id, handler, attempt], outcome))
    refresh_states(conn, {run.delivery_id for run, _ in changed})
    return changed


def release(conn: Connection, left: Sequence[OpenRun], *, now: datetime, reason: str) -> list[OpenRun]:
    """Give up the attempts of workers that ended them themselves, unmade: each is due again now, and nobody died of it.

    Returns those that were still running in the attempt given.
    """
    wanted = {(run.delivery_id, run.handler, run.attempt): run for run in left}
    changed: list[OpenRun] = []
    for some in chunks(sorted(wanted)):
        statement = (
            locked_update(_in_attempts(some), IS_RUNNING)
            .values(outcome=Outcome.AGAIN, due_at=now, job_id=None, finished_at=now, reason=reason)
            .returning(runs.c.delivery_id, runs.c.handler, runs.c.attempts)
        )
        changed += [wanted[delivery_id, handler, attempt] for delivery_id, handler, attempt in conn.execute(statement)]
    refresh_states(conn, {run.delivery_id for run in changed})
    return changed


def wake_waiting(conn: Connection, session_ids: Collection[str], now: datetime) -> int:
    """Make the runs due that wait for news of these sessions; return how many.

    One that is being claimed at this moment is passed over: it will see the news anyway.
    """
    return conn.execute(WAKE, {"ids": session_ids, "now": now}).rowcount


def expire(conn: Connection, now: datetime) -> list[RunKey]:
    """End, as moot, runs whose time is over before they were tried again; their reasons stay. Returns their keys."""
    statement = (
        locked_update(runs.c.until_at <= now, runs.c.due_at.is_not(None), skip_locked=True)
        .values(outcome=Outcome.MOOT, due_at=None, until_at=None, waits_for=None, job_id=None, finished_at=now)
        .returning(runs.c.delivery_id, runs.c.handler)
    )
    ended = sorted((delivery_id, handler) for delivery_id, handler in conn.execute(statement))
    refresh_states(conn, {delivery_id for delivery_id, _ in ended})
    return ended


def _in_attempts(these: Sequence[tuple[str, str, int]]) -> ColumnElement[bool]:
    return tuple_(runs.c.delivery_id, runs.c.handler, runs.c.attempts).in_(list(these))


def _under(attempt: ColumnElement[int]) -> Select[Any]:
    return select(runs.c.delivery_id, runs.c.handler, runs.c.queue, attempt, runs.c.job_id, runs.c.error.is_not(None))


def _open(conn: Connection, query: Select[Any]) -> list[OpenRun]:
    return [OpenRun(*row) for row in conn.execute(query)]


def _set_job(conn: Connection, jobs: Mapping[RunKey, str | None]) -> None:
    if jobs:
        ordered = sorted(jobs.items(), key=itemgetter(0))
        conn.execute(SET_JOB, [{"of": delivery_id, "by": name, "job": job} for (delivery_id, name), job in ordered])
