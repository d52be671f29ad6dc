"""Commit what runs came to: outcomes, effects and the states of deliveries in one transaction; then what follows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rq.timeouts import BaseTimeoutException
from sqlalchemy import Connection

from handlers.kit.context import DeferredStatement
from ingest.failpoints import Failpoint, hit
from workers.execution.dead_letters import publish_dead_letters
from workers.execution.enqueue import enqueue_due_runs
from workers.execution.runner import RunResult, failed
from workers.ledger import delivery_states, pushes, runs
from workers.ledger.database.transaction import is_transient
from workers.ledger.pushes import NewPush
from workers.ledger.runs import EndedRun, NewRun
from workers.ledger.session_waits import SessionWait, has_changed
from workers.ledger.states import Outcome
from workers.push.notify import notify_senders
from workers.resilience.retry import RetryPolicy
from workers.resources import Resources


@dataclass(frozen=True)
class PostCommit:
    """What is to be done once the transaction has committed. The clock does it too, if this process dies before."""

    offer: bool = False
    """Runs are due."""
    send: bool = False
    """Pushes wait."""
    file: bool = False
    """Runs are dead."""

    def __or__(self, other: "PostCommit") -> "PostCommit":
        """Put together what follows from two transactions."""
        return PostCommit(self.offer or other.offer, self.send or other.send, self.file or other.file)


def commit_new_runs(ledger: Connection, equipment: Resources, results: Sequence[RunResult], queue: str) -> PostCommit:
    """Record runs for the first time. Only who records a run has its effects, so a batch done twice has them once.

    `queue` is where the batch came from; a run goes back to it unless its handler has a queue of its own.
    """
    caught_up = _recheck_waits(ledger, results)

    def record(some: Sequence[RunResult]) -> list[RunResult]:
        new = runs.insert_runs(ledger, [_new_run(result, result.queue or queue) for result in some])
        return [result for result in some if (result.delivery_id, result.handler) in new]

    aftermath = _commit(ledger, equipment, caught_up, record)
    hit(Failpoint.CONCLUDING)
    return aftermath


def commit_claimed_runs(
    ledger: Connection, equipment: Resources, handler: str, results: Sequence[RunResult]
) -> PostCommit:
    """End runs of a handler that were claimed. One that somebody else has taken over ends without effects."""

    def end(some: Sequence[RunResult]) -> list[RunResult]:
        ours = runs.finish(ledger, handler, [_ended_run(result) for result in some])
        return [result for result in some if result.delivery_id in ours]

    return _commit(ledger, equipment, _recheck_waits(ledger, results), end)


def run_post_commit(equipment: Resources, aftermath: PostCommit) -> None:
    """Do what follows from a commit."""
    if aftermath.send:
        notify_senders(equipment.connection, equipment.channels)
    if aftermath.offer:
        enqueue_due_runs(equipment)
    if aftermath.file:
        publish_dead_letters(equipment)


def _recheck_waits(ledger: Connection, results: Sequence[RunResult]) -> Sequence[RunResult]:
    """Make runs due at once that begin to wait for a session of which there is news by now: nobody else wakes them."""
    waiting = {number: result.waits_for for number, result in enumerate(results) if result.waits_for is not None}
    awaited = [_awaited(results[number], session_id) for number, session_id in waiting.items()]
    caught_up = list(results)
    for number, is_news in zip(waiting, has_changed(ledger, awaited), strict=True):
        if is_news:
            caught_up[number] = replace(results[number], due_at=results[number].finished_at)
    return caught_up


def _awaited(result: RunResult, session_id: str) -> SessionWait:
    return SessionWait(
        session_id=session_id,
        since=result.started_at,
        has_looked=session_id in result.sessions_read,
        seen=result.sessions_read.get(session_id),
    )


def _commit(
    ledger: Connection,
    equipment: Resources,
    results: Sequence[RunResult],
    claim_ownership: Callable[[Sequence[RunResult]], list[RunResult]],
) -> PostCommit:
    """Write outcomes and the effects of those that `own` says are ours; a run whose own writes fail has failed."""
    ours = claim_ownership([result for result in results if not _has_effects(result)])
    effective, sends = _apply_effects(
        ledger, equipment, [result for result in results if _has_effects(result)], claim_ownership
    )
    delivery_states.refresh_states(ledger, {result.delivery_id for result in results})
    return PostCommit(
        offer=any(result.outcome is Outcome.WAITING for result in ours + effective),
        send=sends,
        file=any(result.outcome is Outcome.DEAD for result in ours + effective),
    )


def _has_effects(result: RunResult) -> bool:
    return bool(result.writes.written or result.writes.pushes)


def _apply_effects(
    ledger: Connection,
    equipment: Resources,
    results: Sequence[RunResult],
    claim_ownership: Callable[[Sequence[RunResult]], list[RunResult]],
) -> tuple[list[RunResult], bool]:
    """Write runs and what they want written and sent, in one savepoint as long as all goes well.

    If not, each half of them is tried in one of its own, until the run is found whose writes fail: only that one has
    failed. Returns those that are ours, and whether any of their pushes is new.
    """
    if not results:
        return [], False
    try:
        with ledger.begin_nested():
            ours = claim_ownership(results)
            _write(ledger, [write for result in ours for write in result.writes.written])
            return ours, bool(pushes.add(ledger, list(_wanted_pushes(equipment, ours))))
    except BaseTimeoutException:
        raise  # the job's own
    except Exception as failure:
        if is_transient(failure):
            raise  # the whole transaction is begun anew
        if len(results) == 1:
            return claim_ownership([failed(results[0], failure, RetryPolicy.of(equipment.settings))]), False
    half = len(results) // 2
    first, first_sends = _apply_effects(ledger, equipment, results[:half], claim_ownership)
    second, second_sends = _apply_effects(ledger, equipment, results[half:], claim_ownership)
    return first + second, first_sends or second_sends


def _wanted_pushes(equipment: Resources, ours: Sequence[RunResult]) -> Iterator[NewPush]:
    for result in ours:
        for push in result.writes.pushes:
            for channel in equipment.channels:
                yield NewPush(result.delivery_id, result.handler, channel, push, result.finished_at)


def _write(ledger: Connection, wanted: Sequence[DeferredStatement]) -> None:
    """Run statements in their order; one that follows itself with other values is run once, with all of them."""
    for (_, names), some in groupby(wanted, key=_batch_key):
        alike = list(some)
        if names is not None:
            ledger.execute(alike[0].statement, [dict(write.values or {}) for write in alike])
            continue
        for write in alike:
            ledger.execute(write.statement)


def _batch_key(write: DeferredStatement) -> tuple[int, frozenset[str] | None]:
    # The names too: of several sets of values SQLAlchemy looks for those of the first one only.
    return id(write.statement), None if write.values is None else frozenset(write.values)


def _new_run(result: RunResult, queue: str) -> NewRun:
    return NewRun(
        delivery_id=result.delivery_id,
        handler=result.handler,
        queue=queue,
        outcome=result.outcome,
        attempts=result.attempt,
        due_at=result.due_at,
        until_at=result.expires_at,
        waits_for=result.waits_for,
        reason=result.reason,
        error=result.error,
        traceback=result.traceback,
        started_at=result.started_at,
        finished_at=result.finished_at,
    )


def _ended_run(result: RunResult) -> EndedRun:
    return EndedRun(
        delivery_id=result.delivery_id,
        attempt=result.attempt,
        outcome=result.outcome,
        finished_at=result.finished_at,
        due_at=result.due_at,
        until_at=result.expires_at,
        waits_for=result.waits_for,
        reason=result.reason,
        error=result.error,
        traceback=result.traceback,
    )
