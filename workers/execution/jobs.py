"""The RQ jobs: a batch of deliveries, and runs of one handler that have a job of their own.

inbox -> relay -> batch -> [process] -> handler -> ledger
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import redis
import structlog
from rq import get_current_job
from sqlalchemy import Connection

from handlers.kit.merge import merge, with_clock_skew
from handlers.kit.session import Session
from handlers.kit.subscriptions import Subscription
from ingest.errors import QueueUnavailable, Unreadable
from ingest.events import Event, SessionEvent, decode
from ingest.failpoints import Failpoint, hit
from ingest.queue.batch import Batch, Delivery, ack_key, batch_key, lease_key
from ingest.queue.leases import lease
from ingest.wire.envelope import Kind
from workers.devices.lookup import Devices
from workers.execution.commit import PostCommit, commit_claimed_runs, commit_new_runs, run_post_commit
from workers.execution.runner import (
    HandlerCall,
    Runner,
    RunResult,
    failed,
    max_duration,
    waiting,
)
from workers.ledger import deliveries, run_schedule, runs, sessions
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.handler_reader import HandlerReader
from workers.ledger.ordered_update import RunKey
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome
from workers.resilience.guarded_call import HandlerDeadline, call_guarded
from workers.resilience.hard_timeout import kill_after
from workers.resilience.retry import RetryPolicy
from workers.resources import Resources, open_resources

log = structlog.get_logger()

START_BUDGET = timedelta(minutes=1)
"""How long a batch calls plugins: what has not begun by then gets a job of its own, and what is done is kept."""


def work_batch(batch_id: str) -> None:
    """Bring a batch to the ledger: records first, then its handlers, then the acknowledgement to its inbox."""
    equipment = open_resources()
    with lease(equipment.connection, batch_id):
        hit(Failpoint.LEASED)
        text = equipment.connection.get(batch_key(batch_id))
        if not isinstance(text, bytes):
            # Acknowledged before, or offered again in another batch: its deliveries are not ours any more.
            log.info("batch.missing", batch=batch_id)
            return
        batch = Batch.from_json(text)
        aftermath = dead_letter_poison(equipment, batch) if batch.poison else process_batch(equipment, batch)
        ack_batch(equipment, batch)
        hit(Failpoint.ACKNOWLEDGED)
        run_post_commit(equipment, aftermath)
    log.info("batch.settled", batch=batch_id, queue=batch.queue, deliveries=len(batch.deliveries))


def work_runs(handler: str, attempts: Sequence[tuple[str, int]]) -> None:
    """Make runs of one handler, each given as its delivery's id and the number of the attempt.

    An attempt that somebody else has made, or is making, is left to them.
    """
    equipment = open_resources()
    job = get_current_job()
    if job is None:
        raise RuntimeError("work_runs is an RQ job")
    with lease(equipment.connection, job.id):
        run_post_commit(equipment, execute_runs(equipment, handler, attempts, job.id))


def process_batch(equipment: Resources, batch: Batch) -> PostCommit:
    """Store the batch and merge its records in one transaction; then run its handlers, and commit what they did.

    What was done before, by a worker that died since or on another node, is not done again. What would take too long
    waits for a job of its own: RQ ends this one after a while, and nobody could tell that from a death.
    """
    until = time.monotonic() + START_BUDGET.total_seconds()
    readings = [DecodedDelivery.of(delivery) for delivery in batch.deliveries if delivery.body is not None]
    records, told = fold_records(
        equipment, [HandlerCall(*pair) for pair in _matches(readings, equipment.plugins.records_for)], until
    )
    inline, own_job = _split_inline(
        [HandlerCall(*pair) for pair in _matches(readings, equipment.plugins.handlers_for)], batch
    )
    taken = {result.delivery_id for result in records} | {task.delivery.id for task in inline + own_job}
    first = [*records, *map(waiting, own_job), *(_ignored(each) for each in readings if each.is_ignored(taken))]

    def keep(ledger: Connection) -> tuple[set[RunKey], PostCommit]:
        new = deliveries.store(ledger, batch.deliveries, {each.delivery.id: each.state for each in readings})
        sessions.merge(ledger, {session_id: partial(merge, facts) for session_id, facts in told.items()})
        aftermath = PostCommit(offer=run_schedule.wake_waiting(ledger, told, datetime.now(UTC)) > 0)
        if not inline:
            aftermath |= commit_new_runs(ledger, equipment, first, batch.queue)
        hit(Failpoint.STORING)
        return runs.existing(ledger, {each.delivery.id for each in readings} - new), aftermath

    done, aftermath = run_in_transaction(equipment.engine, keep)
    hit(Failpoint.STORED)
    if not inline:
        return aftermath
    to_do = [task for task in inline if (task.delivery.id, task.subscription.name) not in done]
    results = [*first, *_runner(equipment).run_all(to_do, until)]
    aftermath |= run_in_transaction(
        equipment.engine, lambda ledger: commit_new_runs(ledger, equipment, results, batch.queue)
    )
    hit(Failpoint.CONCLUDED)
    return aftermath


def dead_letter_poison(equipment: Resources, batch: Batch) -> PostCommit:
    """Keep deliveries that kill their workers as dead letters, without looking into them."""
    reason = "its workers died of it"
    results = [
        RunResult(
            each.id, WHOLE_DELIVERY, 1, Outcome.DEAD, datetime.now(UTC), datetime.now(UTC), reason=reason, error=reason
        )
        for each in batch.deliveries
    ]

    def keep(ledger: Connection) -> PostCommit:
        deliveries.store(
            ledger, batch.deliveries, {each.id: (DeliveryState.RUNNING, None) for each in batch.deliveries}
        )
        return commit_new_runs(ledger, equipment, results, batch.queue)

    return run_in_transaction(equipment.engine, keep)


def execute_runs(equipment: Resources, handler: str, attempts: Sequence[tuple[str, int]], job_id: str) -> PostCommit:
    """Claim the attempts, make them, and commit what came of them."""
    offered = [(delivery_id, attempt) for delivery_id, attempt in attempts]  # JSON knows lists only

    def claim(ledger: Connection) -> list[tuple[DecodedDelivery, int]]:
        claimed = dict(runs.claim(ledger, handler, offered, job_id, datetime.now(UTC)))
        return [(DecodedDelivery.of(each), claimed[each.id]) for each in deliveries.fetch(ledger, claimed)]

    claimed = run_in_transaction(equipment.engine, claim)
    hit(Failpoint.CLAIMED)
    subscription = equipment.plugins.by_name.get(handler)
    tasks: list[HandlerCall] = []
    results: list[RunResult] = []
    for reading, attempt in claimed:
        if subscription is None or reading.event is None:
            results.append(_unrunnable(reading, handler, attempt))
        else:
            tasks.append(HandlerCall(subscription, reading.event, reading.delivery, attempt))
    if subscription is not None and subscription.records:
        made, told = fold_records(equipment, tasks)
    else:
        made, told = _runner(equipment).run_all(tasks), {}
    results += made

    def end(ledger: Connection) -> PostCommit:
        sessions.merge(ledger, {session_id: partial(merge, facts) for session_id, facts in told.items()})
        aftermath = commit_claimed_runs(ledger, equipment, handler, results)
        hit(Failpoint.FINISHING)
        return aftermath

    aftermath = run_in_transaction(equipment.engine, end)
    hit(Failpoint.FINISHED)
    return aftermath


def fold_records(
    equipment: Resources, tasks: Sequence[HandlerCall], until: float = math.inf
) -> tuple[list[RunResult], dict[str, Session]]:
    """Call functions marked `@record`, each within HANDLER_TIMEOUT, and gather by session what the events tell.

    It is merged into the ledger's records afterwards, in any order: no transaction is open while a plugin runs.
    Those that have not begun when `time.monotonic()` is `until` are left waiting.
    """
    told: dict[str, Session] = {}
    results: list[RunResult] = []
    settings = equipment.settings
    policy, span = RetryPolicy.of(settings), settings.handler_timeout
    with kill_after(max_duration(span, len(tasks), until)), HandlerDeadline(span) as deadline:
        for task in tasks:
            if time.monotonic() >= until:
                results.append(waiting(task))
                continue
            session_id = task.event.session_id or ""
            before = told.get(session_id) or Session.empty(session_id)
            facts, failure = call_guarded(deadline.call, task.subscription.apply, before, task.event)
            at = datetime.now(UTC)
            result = RunResult(task.delivery.id, task.subscription.name, task.attempt, Outcome.DONE, at, at)
            results.append(result if failure is None else failed(result, failure, policy))
            if facts is not None and isinstance(task.event, SessionEvent):
                told[session_id] = with_clock_skew(facts, task.event.at, task.delivery.received_at, settings.clock_skew)
    return results, told


def ack_batch(equipment: Resources, batch: Batch) -> None:
    """Tell the inbox that the ledger has the batch: from here on the ledger answers for it."""
    try:
        with equipment.connection.pipeline(transaction=True) as pipe:
            pipe.rpush(ack_key(batch.inbox), batch.id)
            pipe.delete(batch_key(batch.id), lease_key(batch.id))
            pipe.execute()
    except redis.RedisError as error:
        raise QueueUnavailable(f"a batch cannot be acknowledged: {type(error).__name__}") from error


@dataclass(frozen=True)
class DecodedDelivery:
    """A delivery, and the event that its body tells: or why it tells none."""

    delivery: Delivery
    event: Event | None
    reason: str | None = None

    @classmethod
    def of(cls, delivery: Delivery) -> "DecodedDelivery":
        """Read the body of a delivery that has one."""
        try:
            return cls(delivery, decode(Kind(delivery.kind), delivery.body or b""))
        except Unreadable as unreadable:
            return cls(delivery, None, str(unreadable))

    @property
    def state(self) -> tuple[DeliveryState, str | None]:
        """The state in which the delivery enters the ledger, and why it is unreadable if it is."""
        return (DeliveryState.UNREADABLE if self.event is None else DeliveryState.RUNNING), self.reason

    def is_ignored(self, taken: Collection[str]) -> bool:
        """Say whether nobody takes the event."""
        return self.event is not None and self.delivery.id not in taken


def _matches(
    readings: Iterable[DecodedDelivery], subscriptions: Callable[[Event], Iterable[Subscription]]
) -> Iterator[tuple[Subscription, Event, Delivery]]:
    for reading in readings:
        if reading.event is not None:
            for subscription in subscriptions(reading.event):
                yield subscription, reading.event, reading.delivery


def _split_inline(tasks: Iterable[HandlerCall], batch: Batch) -> tuple[list[HandlerCall], list[HandlerCall]]:
    """Part the runs to be made in the batch's own job from those with a job of their own.

    A run that wants the queue on which its batch has come is there already. A delivery that workers died of gets a job
    for each of its runs, so that only the run to blame dies for good.
    """
    inline: list[HandlerCall] = []
    own_job: list[HandlerCall] = []
    for task in tasks:
        is_here = not batch.isolated and task.subscription.queue in {None, batch.queue}
        (inline if is_here else own_job).append(task)
    return inline, own_job


def _ignored(reading: DecodedDelivery) -> RunResult:
    return RunResult(
        reading.delivery.id,
        WHOLE_DELIVERY,
        0,
        Outcome.IGNORED,
        datetime.now(UTC),
        datetime.now(UTC),
        reason="no handler takes it",
    )


def _unrunnable(reading: DecodedDelivery, handler: str, attempt: int) -> RunResult:
    reason = reading.reason or f"no handler named {handler} is loaded"
    return RunResult(
        reading.delivery.id,
        handler,
        attempt,
        Outcome.DEAD,
        datetime.now(UTC),
        datetime.now(UTC),
        reason=reason,
        error=reason,
    )


def _runner(equipment: Resources) -> Runner:
    devices_of = Devices.of(equipment.plugins, equipment.engine)
    return Runner(HandlerReader(equipment.engine, devices_of), equipment.settings)
