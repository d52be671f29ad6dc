"""The runs: who may make one, how it ended, and which are due.

Every attempt has a number. A worker claims a run by raising its number, and ends it only while the number is still its
own: so a worker that was given up for dead and comes back can neither end nor undo what another one has done since.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    case,
    delete,
    exists,
    literal_column,
    not_,
    or_,
    select,
    tuple_,
    update,
)

from workers.ledger.among import among
from workers.ledger.bulk import insert_new
from workers.ledger.deliveries import refresh_states
from workers.ledger.engine import chunks
from workers.ledger.outcomes import Outcome
from workers.ledger.tables import deliveries, runs, sessions

#: A run's name: the delivery's id and the handler's name.
Key = tuple[str, str]

# Written out instead of bound, or SQLite could not see that its partial index of running runs applies.
IS_RUNNING = runs.c.outcome == literal_column("'running'")


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


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that is not over; `attempt` is the number of its present attempt, or of the next one."""

    delivery_id: str
    handler: str
    queue: str
    attempt: int
    #: The RQ job it was offered in or is running in.
    job_id: str | None

    @property
    def key(self) -> Key:
        """The run's name."""
        return self.delivery_id, self.handler


@dataclass(frozen=True, slots=True)
class DeadRun:
    """A run that was given up, with what a person wants to know about it."""

    delivery_id: str
    handler: str
    queue: str
    attempts: int
    error: str | None
    traceback: str | None
    kind: str
    event: str | None
    session_id: str | None


def record_new(conn: Connection, rows: Sequence[NewRun]) -> set[Key]:
    """Record runs and return the keys of those that were not there: who gets a key back owns that run's effects."""
    made = insert_new(conn, runs, [_row(run) for run in rows])
    _catch_up(conn, [(run.delivery_id, run.handler) for run in rows if run.waits_for is not None])
    return {(delivery_id, handler) for delivery_id, handler in made}


def recorded(conn: Connection, delivery_ids: Collection[str]) -> set[Key]:
    """Return the keys of all the runs that these deliveries have."""
    found = conn.execute(select(runs.c.delivery_id, runs.c.handler).where(among(runs.c.delivery_id, delivery_ids)))
    return {(delivery_id, handler) for delivery_id, handler in found}


def add_missing(conn: Connection, rows: Sequence[NewRun]) -> int:
    """Record runs of handlers that did not exist when their deliveries came; return how many."""
    made = record_new(conn, rows)
    refresh_states(conn, {delivery_id for delivery_id, _ in made})
    return len(made)


def claim(
    conn: Connection, handler: str, attempts: Sequence[tuple[str, int]], job_id: str, now: datetime
) -> list[tuple[str, int]]:
    """Take runs on, each for the attempt it was offered for; return those that are ours, with their attempts.

    A dead run is taken by the job that it died in as well, which a person must have put back on its queue: its attempt
    is then a further one.
    """
    claimed: list[tuple[str, int]] = []
    for some in chunks(sorted(attempts)):
        named = tuple_(runs.c.delivery_id, runs.c.attempts)
        next_one = and_(
            runs.c.outcome.in_([Outcome.WAITING, Outcome.AGAIN, Outcome.DEAD]),
            named.in_([(delivery_id, attempt - 1) for delivery_id, attempt in some]),
        )
        once_more = and_(runs.c.outcome == Outcome.DEAD, runs.c.job_id == job_id, named.in_(list(some)))
        statement = (
            _update_in_order(
                runs.c.handler == handler,
                runs.c.delivery_id.in_([delivery_id for delivery_id, _ in some]),
                or_(next_one, once_more),
            )
            .values(
                outcome=Outcome.RUNNING,
                attempts=runs.c.attempts + 1,
                job_id=job_id,
                started_at=now,
                finished_at=None,
                due_at=None,
                waits_for=None,
            )
            .returning(runs.c.delivery_id, runs.c.attempts)
        )
        claimed.extend((delivery_id, attempt) for delivery_id, attempt in conn.execute(statement))
    return sorted(claimed)


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


def due(conn: Connection, now: datetime, limit: int) -> list[OpenRun]:
    """List runs whose time has come and that no job was made for, the longest due first."""
    return _open(
        conn, _coming().where(runs.c.due_at <= now, runs.c.job_id.is_(None)).order_by(runs.c.due_at).limit(limit)
    )


def mark_offered(conn: Connection, keys: Collection[Key], job_id: str) -> None:
    """Note the job that runs are put in; before the job is made, so that none is made twice."""
    for some in chunks(sorted(keys)):
        conn.execute(_update_in_order(_among(some), runs.c.due_at.is_not(None)).values(job_id=job_id))


def offered(conn: Connection) -> list[OpenRun]:
    """List runs that a job was made for and that nobody has claimed yet."""
    return _open(conn, _coming().where(runs.c.due_at.is_not(None), runs.c.job_id.is_not(None)))


def clear_offer(conn: Connection, keys: Collection[Key]) -> None:
    """Forget the jobs of runs whose jobs are gone: they are `due` again."""
    for some in chunks(sorted(keys)):
        conn.execute(_update_in_order(_among(some), runs.c.due_at.is_not(None)).values(job_id=None))


def running(conn: Connection) -> list[OpenRun]:
    """List the runs that somebody has claimed and not ended."""
    return _open(
        conn,
        select(runs.c.delivery_id, runs.c.handler, runs.c.queue, runs.c.attempts, runs.c.job_id).where(IS_RUNNING),
    )


def lost(
    conn: Connection, gone: Sequence[OpenRun], *, now: datetime, deaths_allowed: int, error: str
) -> list[tuple[OpenRun, Outcome]]:
    """Give up the attempts of workers that died: each is due again now, or dead when workers died of it too often.

    Returns those that were still running in the attempt given, with what has become of them.
    """
    wanted = {(run.delivery_id, run.handler, run.attempt): run for run in gone}
    changed: list[tuple[OpenRun, Outcome]] = []
    is_last = runs.c.deaths + 1 >= deaths_allowed
    for some in chunks(sorted(wanted)):
        these = tuple_(runs.c.delivery_id, runs.c.handler, runs.c.attempts).in_(list(some))
        statement = (
            _update_in_order(these, IS_RUNNING)
            .values(
                outcome=case((is_last, Outcome.DEAD), else_=Outcome.AGAIN),
                deaths=runs.c.deaths + 1,
                due_at=case((is_last, None), else_=now),
                until_at=case((is_last, None), else_=runs.c.until_at),
                job_id=case((is_last, runs.c.job_id), else_=None),
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


def wake(conn: Connection, session_ids: Collection[str], now: datetime) -> int:
    """Make the runs due that wait for news of these sessions; return how many.

    One that is being claimed at this moment is passed over: it will see the news anyway.
    """
    waiting = and_(among(runs.c.waits_for, session_ids), runs.c.due_at > now)
    return conn.execute(_update_in_order(waiting, skip_locked=True).values(due_at=now)).rowcount


def overdue(conn: Connection, now: datetime) -> list[Key]:
    """End, as moot, runs whose time is over before they were tried again; their reasons stay. Returns their keys."""
    statement = (
        _update_in_order(runs.c.until_at <= now, runs.c.due_at.is_not(None), skip_locked=True)
        .values(outcome=Outcome.MOOT, due_at=None, until_at=None, waits_for=None, job_id=None, finished_at=now)
        .returning(runs.c.delivery_id, runs.c.handler)
    )
    ended = sorted((delivery_id, handler) for delivery_id, handler in conn.execute(statement))
    refresh_states(conn, {delivery_id for delivery_id, _ in ended})
    return ended


def reopen(
    conn: Connection,
    delivery_ids: Collection[str],
    handler: str | None,
    now: datetime,
    outcomes: Iterable[Outcome] = (Outcome.DEAD, Outcome.MOOT),
) -> int:
    """Make ended runs due now, of one handler or of all, and return how many; their attempts are counted on."""
    ended = [outcome for outcome in outcomes if outcome.is_final]
    conditions = [among(runs.c.delivery_id, delivery_ids), runs.c.outcome.in_(ended)]
    if handler is not None:
        conditions.append(runs.c.handler == handler)
    again = _update_in_order(*conditions).values(
        outcome=Outcome.WAITING, deaths=0, due_at=now, until_at=None, waits_for=None, job_id=None, finished_at=None
    )
    count = conn.execute(again).rowcount
    refresh_states(conn, delivery_ids)
    return count


def withdraw(conn: Connection, delivery_ids: Collection[str], handler: str) -> None:
    """Take back ended runs: what they said of their deliveries is not true any more."""
    ended = runs.c.outcome.in_([outcome for outcome in Outcome if outcome.is_final])
    conn.execute(delete(runs).where(among(runs.c.delivery_id, delivery_ids), runs.c.handler == handler, ended))


def unfiled(conn: Connection, prefix: str, limit: int) -> list[DeadRun]:
    """List dead runs whose job's id does not begin with the prefix: no dead letter was made for them yet."""
    is_dead = runs.c.outcome == literal_column("'dead'")  # written out for the same reason as `IS_RUNNING`
    filed = and_(runs.c.job_id.is_not(None), runs.c.job_id.startswith(prefix, autoescape=True))
    query = (
        select(
            runs.c.delivery_id,
            runs.c.handler,
            runs.c.queue,
            runs.c.attempts,
            runs.c.error,
            runs.c.traceback,
            deliveries.c.kind,
            deliveries.c.event,
            deliveries.c.session_id,
        )
        .join_from(runs, deliveries, runs.c.delivery_id == deliveries.c.id)
        .where(is_dead, not_(filed))
        .limit(limit)
    )
    return [DeadRun(*row) for row in conn.execute(query)]


def mark_filed(conn: Connection, run: DeadRun, job_id: str) -> None:
    """Note the failed job that stands for a dead run, unless the run has been taken up again."""
    same = and_(runs.c.delivery_id == run.delivery_id, runs.c.handler == run.handler, runs.c.attempts == run.attempts)
    conn.execute(update(runs).where(same, runs.c.outcome == Outcome.DEAD).values(job_id=job_id))


def _row(run: NewRun) -> dict[str, Any]:
    return {name: getattr(run, name) for name in NewRun.__dataclass_fields__} | {"deaths": 0}


def _coming() -> Select[Any]:
    return select(runs.c.delivery_id, runs.c.handler, runs.c.queue, runs.c.attempts + 1, runs.c.job_id)


def _open(conn: Connection, query: Select[Any]) -> list[OpenRun]:
    return [OpenRun(*row) for row in conn.execute(query)]


def _among(keys: Sequence[Key]) -> ColumnElement[bool]:
    return tuple_(runs.c.delivery_id, runs.c.handler).in_(list(keys))


def _update_in_order(*conditions: ColumnElement[bool], skip_locked: bool = False) -> Update:
    """Update what fits, locked in the order of keys, so that two workers never wait for each other in a circle."""
    fitting = (
        select(runs.c.delivery_id, runs.c.handler)
        .where(*conditions)
        .order_by(runs.c.delivery_id, runs.c.handler)
        .with_for_update(skip_locked=skip_locked)
        .correlate(None)
    )
    return update(runs).where(tuple_(runs.c.delivery_id, runs.c.handler).in_(fitting))


def _catch_up(conn: Connection, keys: Sequence[Key]) -> None:
    """Make runs due that began to wait for news of a session while the news came in: `wake` could not see them yet."""
    has_news = exists().where(sessions.c.session_id == runs.c.waits_for, sessions.c.updated_at > runs.c.started_at)
    for some in chunks(keys):
        conn.execute(update(runs).where(_among(some), has_news).values(due_at=runs.c.finished_at))
