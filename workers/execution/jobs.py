"""The RQ jobs: a batch of deliveries, and runs of one handler that have a job of their own.

request -> envelope -> inbox -> relay -> [jobs] -> handler -> ledger
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import redis
import structlog
from rq import get_current_job
from sqlalchemy import Connection

from handlers.kit.subscriptions import Subscription
from ingest.errors import QueueUnavailable
from ingest.events import Event
from ingest.failpoints import Failpoint, hit
from ingest.queue.batch import Batch, ack_key, batch_key, lease_key
from ingest.queue.leases import lease
from ingest.queue.queues import BACKGROUND, URGENT
from ingest.wire.timestamps import utc_now
from workers.devices.lookup import Devices
from workers.execution.commit import PostCommit, commit_claimed_runs, commit_new_runs, run_post_commit
from workers.execution.decoded_delivery import DecodedDelivery
from workers.execution.enqueue import RUNS_PER_JOB
from workers.execution.handler_durations import is_slow
from workers.execution.healed_calls import healed_ids, healed_key, moot_after_healing
from workers.execution.record_merge import fold_records, merge_facts, names_of_done
from workers.execution.run_result import HandlerCall, RunResult, dead_result, forgotten, log_failures, waiting
from workers.execution.runner import Runner
from workers.ledger import deliveries, delivery_states, finished_runs, healed_events, recorded_runs, run_schedule, runs
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.delivery_states import SettledDelivery
from workers.ledger.reader import HandlerReader
from workers.ledger.run_schedule import OpenRun
from workers.ledger.runs import RunKey
from workers.ledger.session_erasure import ERASED, blank_erased, erased_of, mark_erased
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome
from workers.observability.delivery_spans import record_batch
from workers.resources import Resources, open_resources

log = structlog.get_logger()

RECORDS_BUDGET = timedelta(minutes=1)
"""For how long a batch starts calls of record functions; the calls that are left then get jobs of their own."""

HANDLERS_BUDGET = timedelta(seconds=1)
"""For how long a job starts calls of handlers, so that it delays no other for long; what is left gets another job."""


def work_batch(batch_id: str) -> None:
    """Process a batch: store it and merge its session records, run its handlers, acknowledge it to its inbox."""
    resources, began_at = open_resources(), utc_now()
    with lease(resources.connection, batch_id, read=batch_key(batch_id)) as text:
        hit(Failpoint.LEASED)
        if text is None:
            # Acknowledged before, or published again in another batch: nothing is left to do here.
            log.info("batch.missing", batch=batch_id)
            return
        batch = Batch.from_json(text)
        post_commit = dead_letter_poison(resources, batch) if batch.poison else process_batch(resources, batch)
        log_failures(post_commit.failed)
        ack_batch(resources, batch)
        hit(Failpoint.ACKNOWLEDGED)
        record_batch(batch, began_at)
        run_post_commit(resources, post_commit)
    log.info("batch.settled", batch=batch_id, queue=batch.queue, deliveries=len(batch.deliveries))


def work_runs(handler: str, attempts: Sequence[tuple[str, int]]) -> None:
    """Run one handler on deliveries, each given by its id and the number of the attempt.

    An attempt that another job has made, or is making, is skipped.
    """
    resources = open_resources()
    job = get_current_job()
    if job is None:
        raise RuntimeError("work_runs is an RQ job")
    with lease(resources.connection, job.id):
        post_commit = execute_runs(resources, handler, attempts, job.id)
        log_failures(post_commit.failed)
        run_post_commit(resources, post_commit)


def process_batch(resources: Resources, batch: Batch) -> PostCommit:
    """Store the batch and merge its records in one transaction; then run its handlers, and commit their runs.

    The records of what it reads ahead are merged too, which does no harm when that arrives in a batch of its own.
    What was done before, by a worker that died since or on another node, is not done again. What would take too long
    waits for a job of its own: RQ kills a job at its timeout, and that looks like a crash.
    """
    until = time.monotonic() + RECORDS_BUDGET.total_seconds()
    batch, erased = _blank_erased(resources, batch)
    decoded = [DecodedDelivery.of(each, erased) for each in batch.deliveries if each.body is not None]
    own = {each.delivery.id for each in decoded}
    ahead = [DecodedDelivery.of(delivery) for delivery in batch.read_ahead if delivery.id not in own]
    folded, facts = fold_records(resources, _calls([*decoded, *ahead], resources.plugins.records_for), until)
    records = [result for result in folded if result.delivery_id in own]
    inline, own_job = _split_inline(_calls(decoded, resources.plugins.handlers_for), batch)
    taken = {result.delivery_id for result in records} | {call.delivery.id for call in inline + own_job}
    ignored = [each.ignored() for each in decoded if each.is_understood and each.delivery.id not in taken]
    elsewhere = BACKGROUND if batch.queue == URGENT else None
    first = [*records, *(waiting(call, elsewhere) for call in own_job), *ignored]
    # Whose handlers are not called here is stored in its last state, which is cheaper than to change it.
    with_calls = {call.delivery.id for call in inline}
    outcomes = [(result.delivery_id, result.outcome) for result in first if result.delivery_id not in with_calls]
    ended = delivery_states.states_of(outcomes)
    could_be_healed = healed_ids([*inline, *own_job])
    states = {each.delivery.id: each.state for each in decoded}
    states |= {delivery_id: (state, None) for delivery_id, state in ended.items()}
    recorded_by = names_of_done(records)

    def store(ledger: Connection) -> tuple[list[RunResult], set[RunKey], PostCommit]:
        new = deliveries.store(ledger, batch.deliveries, states, recorded_by)
        mark_erased(ledger, new & erased)
        known = {each.delivery.id for each in decoded} - new
        at, with_new_driver = datetime.now(UTC), merge_facts(ledger, facts)
        is_any_due = run_schedule.wake_waiting(ledger, facts, at) > 0
        is_any_due |= finished_runs.reopen_for_new_driver(ledger, with_new_driver, resources.plugins.followers, at)
        done = recorded_runs.existing(ledger, known)
        without_row = [result for result in records if result.delivery_id in new and result.outcome is Outcome.DONE]
        done |= {(result.delivery_id, result.handler) for result in without_row}
        # What had its outcomes before it was erased gets no other.
        settled_before = deliveries.settled(ledger, known & erased) if known & erased else set()
        left = [
            result
            for result in first
            if (result.delivery_id, result.handler) not in done and result.delivery_id not in settled_before
        ]
        at_once = [result for result in left if result.delivery_id not in with_calls]
        post_commit = commit_new_runs(ledger, resources, at_once, batch.queue, known - with_calls)
        settled = _settled(decoded, new, states, at)
        post_commit |= PostCommit(enqueue_runs=is_any_due, ended=tuple(without_row), settled=settled)
        begun = healed_events.cancel(ledger, could_be_healed, at)
        hit(Failpoint.STORING)
        return [result for result in left if result.delivery_id in with_calls], done | begun, post_commit

    left, done, post_commit = run_in_transaction(resources.engine, store)
    hit(Failpoint.STORED)
    if not inline:  # no handler is called here: one commit is enough
        return post_commit
    to_do = [call for call in inline if (call.delivery.id, call.subscription.name) not in done]
    healed = [moot_after_healing(call) for call in to_do if healed_key(call) in done]
    to_do = [call for call in to_do if healed_key(call) not in done]
    results = [*left, *healed, *_runner(resources).run_all(to_do, time.monotonic() + HANDLERS_BUDGET.total_seconds())]

    def conclude(ledger: Connection) -> PostCommit:
        gone = erased_of(ledger, with_calls)  # while their handlers ran
        ended = [forgotten(each) if each.delivery_id in gone else each for each in results]
        return commit_new_runs(ledger, resources, ended, batch.queue, with_calls)

    post_commit |= run_in_transaction(resources.engine, conclude)
    hit(Failpoint.CONCLUDED)
    return post_commit


def dead_letter_poison(resources: Resources, batch: Batch) -> PostCommit:
    """Store deliveries that kill their workers as dead letters, without decoding them.

    What is of an erased session has no content, so that nobody can run it again: it is ignored.
    """
    reason = "its workers died of it"
    batch, erased = _blank_erased(resources, batch)
    results = [
        DecodedDelivery.of(each, erased).ignored()
        if each.id in erased
        else dead_result(each, WHOLE_DELIVERY, 1, reason)
        for each in batch.deliveries
    ]
    states = {each.id: (DeliveryState.RUNNING, None) for each in batch.deliveries}

    def store(ledger: Connection) -> PostCommit:
        new = deliveries.store(ledger, batch.deliveries, states)
        mark_erased(ledger, new & erased)
        return commit_new_runs(ledger, resources, results, batch.queue, set(states))

    return run_in_transaction(resources.engine, store)


def execute_runs(resources: Resources, handler: str, attempts: Sequence[tuple[str, int]], job_id: str) -> PostCommit:
    """Claim the attempts, run the handler, and commit the runs; attempts that are not begun in time are due again."""
    enqueued = [(delivery_id, attempt) for delivery_id, attempt in attempts]  # JSON has lists only

    subscription = resources.plugins.by_name.get(handler)

    def claim(ledger: Connection) -> tuple[list[tuple[DecodedDelivery, int]], set[RunKey]]:
        claimed = dict(runs.claim(ledger, handler, enqueued, job_id, datetime.now(UTC)))
        found = [(DecodedDelivery.of(each), claimed[each.id]) for each in deliveries.fetch(ledger, claimed)]
        first = [each for each, attempt in found if attempt == 1]  # a person may run it again all the same
        wanted = healed_ids(_calls(first, lambda _event: [subscription] if subscription else []))
        return found, healed_events.begun(ledger, wanted) if wanted else set()

    claimed, healed = run_in_transaction(resources.engine, claim)
    hit(Failpoint.CLAIMED)
    calls: list[HandlerCall] = []
    results: list[RunResult] = []
    for each, attempt in claimed:
        if subscription is None or each.event is None:
            reason = each.reason or f"no handler named {handler} is loaded"
            results.append(dead_result(each.delivery, handler, attempt, reason))
        else:
            call = HandlerCall(subscription, each.event, each.delivery, attempt)
            if attempt == 1 and healed_key(call) in healed:
                results.append(moot_after_healing(call))
            else:
                calls.append(call)
    if subscription is not None and subscription.records:
        made, facts = fold_records(resources, calls)
    else:
        until = time.monotonic() + HANDLERS_BUDGET.total_seconds()
        made, facts = _runner(resources).run_all(calls, until), {}
    results += [result for result in made if result.outcome is not Outcome.WAITING]
    attempted = {result.delivery_id for result in results}
    not_begun = [(each.delivery.id, attempt) for each, attempt in claimed if each.delivery.id not in attempted]

    def finish(ledger: Connection) -> PostCommit:
        merge_facts(ledger, facts)
        deferred = [OpenRun(delivery_id, handler, "", attempt, job_id) for delivery_id, attempt in not_begun]
        run_schedule.defer(ledger, deferred, now=utc_now(), queue=BACKGROUND if is_slow(handler) else None)
        # More are due where a job was full, or nearly so.
        post_commit = PostCommit(enqueue_runs=bool(not_begun) or len(enqueued) >= RUNS_PER_JOB)
        post_commit |= commit_claimed_runs(ledger, resources, handler, results)
        hit(Failpoint.FINISHING)
        return post_commit

    post_commit = run_in_transaction(resources.engine, finish)
    hit(Failpoint.FINISHED)
    return post_commit


def ack_batch(resources: Resources, batch: Batch) -> None:
    """Acknowledge the batch to its inbox: from here on the ledger answers for it."""
    try:
        with resources.connection.pipeline(transaction=True) as pipe:
            pipe.rpush(ack_key(batch.inbox), batch.id)
            pipe.delete(batch_key(batch.id), lease_key(batch.id))
            pipe.execute()
    except redis.exceptions.OutOfMemoryError as error:
        # What is in the ledger already need not fill Redis: without an acknowledgement it is published again.
        resources.connection.delete(batch_key(batch.id))
        raise QueueUnavailable("a batch cannot be acknowledged: Redis has no memory left") from error
    except redis.RedisError as error:
        raise QueueUnavailable(f"a batch cannot be acknowledged: {type(error).__name__}") from error


def _blank_erased(resources: Resources, batch: Batch) -> tuple[Batch, set[str]]:
    """Blank what is of erased sessions in the batch, and in the description of its job."""
    batch, erased = blank_erased(resources.engine, batch)
    if erased and (job := get_current_job()):
        job.description = ERASED  # it names the session, and RQ keeps finished jobs
    return batch, erased


def _calls(
    decoded: Iterable[DecodedDelivery], subscriptions: Callable[[Event], Iterable[Subscription]]
) -> list[HandlerCall]:
    return [
        HandlerCall(subscription, each.event, each.delivery)
        for each in decoded
        if each.event is not None
        for subscription in subscriptions(each.event)
        if subscription.accepts(each.delivery)
    ]


def _split_inline(calls: Iterable[HandlerCall], batch: Batch) -> tuple[list[HandlerCall], list[HandlerCall]]:
    """Separate the calls made in the batch's job from those with a job of their own.

    A handler whose queue is that of the batch runs here, unless it is slow. An urgent batch runs only handlers that
    asked for that: the first call of a slow one would delay every warning. A delivery that workers died of gets a job
    for each of its handlers, so that only the run to blame dies for good.
    """
    inline: list[HandlerCall] = []
    own_job: list[HandlerCall] = []
    served = {batch.queue} if batch.queue == URGENT else {None, batch.queue}
    for call in calls:
        is_here = not batch.isolated and call.subscription.queue in served
        is_inline = is_here and not is_slow(call.subscription.name)
        (inline if is_inline else own_job).append(call)
    return inline, own_job


def _settled(
    decoded: Sequence[DecodedDelivery],
    new: Collection[str],
    states: Mapping[str, tuple[DeliveryState, str | None]],
    at: datetime,
) -> tuple[SettledDelivery, ...]:
    stored = {each.delivery.id: each.delivery for each in decoded if each.is_understood}
    ended = (each for key, each in stored.items() if key in new and states[key][0].is_ended)
    return tuple(SettledDelivery(each.event, each.received_at, at) for each in ended)


def _runner(resources: Resources) -> Runner:
    settings = resources.settings
    devices_of = Devices(resources.engine, resources.plugins.devices, settings.devices_per_user)
    return Runner(HandlerReader(resources.engine, devices_of), settings)
