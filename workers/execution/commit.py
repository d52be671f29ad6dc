"""Commit outcomes, effects and the states of deliveries in one transaction; then act on what was committed.

request -> envelope -> inbox -> relay -> jobs -> handler -> [commit] -> ledger
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from rq.timeouts import BaseTimeoutException
from sqlalchemy import Connection

from handlers.kit.context import DeferredStatement
from ingest.failpoints import Failpoint, hit
from workers.execution.dead_letters import publish_dead_letters
from workers.execution.enqueue import enqueue_due_runs
from workers.execution.run_result import RunResult, failed
from workers.ledger import delivery_states, pushes, runs
from workers.ledger.database.transaction import is_transient
from workers.ledger.delivery_states import SettledDelivery
from workers.ledger.pushes import NewPush
from workers.ledger.sessions import SessionWait, has_changed
from workers.ledger.states import Outcome
from workers.observability import work_metrics
from workers.observability.delivery_spans import record_runs
from workers.push.notify import notify_senders
from workers.resilience.retry import RetryPolicy
from workers.resources import Resources


class PostCommit(NamedTuple):
    """What to do after a commit. If this process dies first, the process `clock` does it."""

    enqueue_runs: bool = False
    """Runs are due."""
    notify_senders: bool = False
    """Pushes wait."""
    publish_dead_letters: bool = False
    """Runs are dead."""
    ended: tuple[RunResult, ...] = ()
    """The runs that were written: they are to be counted."""
    settled: tuple[SettledDelivery, ...] = ()
    """The deliveries that were settled, likewise."""

    @property
    def failed(self) -> tuple[RunResult, ...]:
        """The attempts that failed: they are to be logged."""
        return tuple(result for result in self.ended if result.error is not None)

    def __or__(self, other: "PostCommit") -> "PostCommit":
        """Combine what follows from two transactions."""
        return PostCommit(
            self.enqueue_runs or other.enqueue_runs,
            self.notify_senders or other.notify_senders,
            self.publish_dead_letters or other.publish_dead_letters,
            self.ended + other.ended,
            self.settled + other.settled,
        )


def commit_new_runs(
    ledger: Connection,
    resources: Resources,
    results: Sequence[RunResult],
    queue: str,
    refresh: Collection[str],
) -> PostCommit:
    """Record runs for the first time, with their effects; runs that were recorded before have no effects.

    `queue` is where the batch came from; a run goes back to it unless its handler has a queue of its own.
    The states of the deliveries in `refresh` are updated; others are in the states that follow from these results.
    """

    def insert(some: Sequence[RunResult]) -> list[RunResult]:
        new = runs.insert_runs(ledger, some, queue)
        return [result for result in some if (result.delivery_id, result.handler) in new]

    post_commit = _commit(ledger, resources, _recheck_waits(ledger, results), insert, refresh)
    hit(Failpoint.CONCLUDING)
    return post_commit


def commit_claimed_runs(
    ledger: Connection, resources: Resources, handler: str, results: Sequence[RunResult]
) -> PostCommit:
    """End claimed runs of a handler, with their effects; runs that others have taken over have no effects."""

    def finish(some: Sequence[RunResult]) -> list[RunResult]:
        ours = runs.finish(ledger, handler, some)
        return [result for result in some if result.delivery_id in ours]

    deliveries = {result.delivery_id for result in results}
    return _commit(ledger, resources, _recheck_waits(ledger, results), finish, deliveries)


def run_post_commit(resources: Resources, post_commit: PostCommit) -> None:
    """Notify senders, enqueue runs and publish dead letters, as far as needed; count and trace what was done."""
    if post_commit.notify_senders:
        notify_senders(resources.connection, resources.channels)
    if post_commit.enqueue_runs:
        enqueue_due_runs(resources)
    if post_commit.publish_dead_letters:
        publish_dead_letters(resources)
    work_metrics.count_runs((result.handler, result.outcome) for result in post_commit.ended)
    record_runs(post_commit.ended)
    work_metrics.count_settled(post_commit.settled)
    work_metrics.flush(resources.connection)


def _recheck_waits(ledger: Connection, results: Sequence[RunResult]) -> list[RunResult]:
    """Make a run due now if the session it waits for has news since it was read: that news wakes no later wait."""
    waits = {
        index: SessionWait(
            session_id=result.waits_for,
            since=result.started_at,
            was_read=result.waits_for in result.sessions_read,
            seen=result.sessions_read.get(result.waits_for),
        )
        for index, result in enumerate(results)
        if result.waits_for is not None
    }
    rechecked = list(results)
    for index, is_news in zip(waits, has_changed(ledger, list(waits.values())), strict=True):
        if is_news:
            rechecked[index] = replace(results[index], due_at=results[index].finished_at)
    return rechecked


def _commit(
    ledger: Connection,
    resources: Resources,
    results: Sequence[RunResult],
    write_runs: Callable[[Sequence[RunResult]], list[RunResult]],
    refresh: Collection[str],
) -> PostCommit:
    """Write outcomes by `write_runs`, which returns those that are ours, and the effects of these."""
    ours = write_runs([result for result in results if not _has_effects(result)])
    with_effects, has_pushes = _apply_effects(
        ledger, resources, [result for result in results if _has_effects(result)], write_runs
    )
    settled = delivery_states.refresh_states(ledger, refresh)
    all_ours = (*ours, *with_effects)
    outcomes = {result.outcome for result in all_ours}
    return PostCommit(Outcome.WAITING in outcomes, has_pushes, Outcome.DEAD in outcomes, all_ours, tuple(settled))


def _has_effects(result: RunResult) -> bool:
    return bool(result.writes.written or result.writes.pushes)


def _apply_effects(
    ledger: Connection,
    resources: Resources,
    results: Sequence[RunResult],
    write_runs: Callable[[Sequence[RunResult]], list[RunResult]],
) -> tuple[list[RunResult], bool]:
    """Write runs and their effects in one savepoint; return the runs that are ours, and whether a push is new.

    If that fails, each half is tried in a savepoint of its own, down to the single run whose writes fail: that run
    alone has failed.
    """
    if not results:
        return [], False
    try:
        with ledger.begin_nested():
            ours = write_runs(results)
            _execute(ledger, [statement for result in ours for statement in result.writes.written])
            return ours, bool(pushes.insert(ledger, list(_new_pushes(resources, ours))))
    except BaseTimeoutException:
        raise  # RQ's, of the whole job
    except Exception as failure:
        if is_transient(failure):
            raise  # the whole transaction is retried
        if len(results) == 1:
            return write_runs([failed(results[0], failure, RetryPolicy.of(resources.settings))]), False
    half = len(results) // 2
    first, first_has_pushes = _apply_effects(ledger, resources, results[:half], write_runs)
    second, second_has_pushes = _apply_effects(ledger, resources, results[half:], write_runs)
    return first + second, first_has_pushes or second_has_pushes


def _new_pushes(resources: Resources, results: Sequence[RunResult]) -> Iterator[NewPush]:
    for result in results:
        for push in result.writes.pushes:
            for channel in resources.channels:
                yield NewPush(
                    result.delivery_id, result.handler, channel, push, result.finished_at, event_at=result.event_at
                )


def _execute(ledger: Connection, statements: Sequence[DeferredStatement]) -> None:
    """Run statements in their order; successive ones that differ in values only are run as one executemany."""
    for (_, names), group in groupby(statements, key=_batch_key):
        alike = list(group)
        if names is not None:
            ledger.execute(alike[0].statement, [dict(each.values or {}) for each in alike])
            continue
        for each in alike:
            ledger.execute(each.statement)


def _batch_key(statement: DeferredStatement) -> tuple[int, frozenset[str] | None]:
    # With the names of the values: SQLAlchemy compiles an executemany for those of its first row only.
    return id(statement.statement), None if statement.values is None else frozenset(statement.values)
