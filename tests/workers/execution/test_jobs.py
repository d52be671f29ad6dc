"""Batches and runs, from the decoded batch to the ledger, on SQLite and on PostgreSQL."""

import asyncio
import itertools
import json
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import redis
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException
from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from handlers import Context, GiveUp, Moot, RetryLater, on, record
from handlers.fee_warning import warn_the_driver
from handlers.kit.session import Session
from handlers.kit.subscriptions import MARK
from handlers.session_records import session_record
from ingest.config.settings import load_settings
from ingest.events import ChargingRecord, Event, SessionComplete, SessionFeeIncurring, SessionStarted, UnknownEvent
from ingest.queue.batch import Batch, Delivery, batch_key, new_batch_id
from ingest.queue.erasure_orders import ErasureOrder, erasure_digest
from ingest.queue.leases import JobState, LeaseMonitor
from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import queue
from ingest.relay.publisher import JOB_TIMEOUT
from ingest.wire.envelope import Envelope, Kind
from workers.clock.clock import Clock
from workers.clock.push_sender import send_due
from workers.diagnostics import stuck
from workers.execution import handler_durations, jobs
from workers.execution.commit import PostCommit, commit_new_runs, run_post_commit
from workers.execution.dead_letters import publish_dead_letters
from workers.execution.enqueue import RUNS_PER_JOB, enqueue_due_runs
from workers.execution.job_allowlist import AllowlistedJob
from workers.execution.jobs import dead_letter_poison, execute_runs, process_batch
from workers.execution.rq_worker import PreloadedWorker
from workers.ledger import deliveries, pushes, run_schedule, runs, session_erasure, sessions
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import RETRY_FOR, LedgerUnavailable, run_in_transaction
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.identity import ledger_id
from workers.ledger.invariants import check_invariants
from workers.ledger.runs import RunRecord
from workers.ledger.states import WHOLE_DELIVERY, BodyDeletion, DeliveryState, Outcome, PushState
from workers.ledger.tables import metadata
from workers.ledger.tables.core_tables import pushes as push_table
from workers.ledger.tables.core_tables import runs as run_table
from workers.ledger.tables.core_tables import sessions as session_table
from workers.observability import work_metrics
from workers.observability.redis_metrics import SharedCollector, SharedCounts
from workers.plugins import Plugins
from workers.privacy.erasure import Erasure, erase, remember
from workers.privacy.erasure_targets import find_targets
from workers.push.registry import open_channels
from workers.resilience.guarded_call import HandlerDeadline, HandlerTimedOut
from workers.resilience.hard_timeout import CLEANUP_GRACE
from workers.resources import Resources

MakeResources: TypeAlias = Callable[..., Resources]

START = datetime(2026, 5, 4, 10, 0, tzinfo=UTC)
NUMBERS = itertools.count()

notes = Table("notes", MetaData(), Column("text", String, primary_key=True))


@pytest.fixture
def resources_with(database_url: str, valkey: redis.Redis, tmp_path: Path) -> MakeResources:
    """Return the resources of a worker with the given handlers beside the record of sessions."""
    metadata.create_all(create_ledger_engine(database_url, creates_file=True))
    engine = create_ledger_engine(database_url)
    with engine.begin() as ledger:
        notes.create(ledger)

    def build(*handlers: Callable[..., object], **overrides: Any) -> Resources:
        settings = load_settings(
            data_dir=tmp_path, plugsurfing_hmac_current="key", database_url=database_url, **overrides
        )
        marked = tuple(getattr(handler, MARK) for handler in (session_record, *handlers))
        return Resources(settings, Plugins(marked), engine, valkey, open_channels(settings))

    return build


def said(name: str, session_id: str = "S1", *, minutes: float = 0, user: str | None = "driver-1", **more: Any) -> bytes:
    payload = {"sessionId": session_id, "timestamp": (START + timedelta(minutes=minutes)).isoformat(), **more}
    if user:
        payload["userId"] = user
    return json.dumps({"event": name, "payload": payload}).encode()


def fee(session_id: str = "S1", *, in_minutes: float = 10) -> bytes:
    start = (datetime.now(UTC) + timedelta(minutes=in_minutes)).isoformat()
    return said("SESSION_FEE_INCURRING", session_id, user=None, feeWillApplyFrom=start, feeType="BLOCKING")


def delivery(body: bytes, kind: Kind = Kind.EVENTS) -> Delivery:
    envelope = Envelope(kind, body, datetime.now(UTC), "current", None, {})
    return Delivery(envelope.id, kind, None, None, envelope.received_at, "current", None, {}, body, 1, "inbox-1")


def batch(*bodies: bytes, **fields: Any) -> Batch:
    return Batch(new_batch_id(), "inbox-1", "sessions", tuple(delivery(body) for body in bodies), **fields)


def work(resources: Resources, given: Batch) -> None:
    run_post_commit(resources, process_batch(resources, given))


def work_queued(resources: Resources) -> int:
    """Execute the runs of the queued jobs, as a worker would; return how many they were."""
    made = 0
    for name in QUEUES:
        for job in queue(name, resources.connection).jobs:
            handler, attempts = job.args
            run_post_commit(resources, execute_runs(resources, handler, attempts, job.id))
            job.delete()
            made += len(attempts)
    return made


def outcomes(resources: Resources, body: bytes) -> dict[str, Outcome]:
    with resources.engine.connect() as ledger:
        row = deliveries.get(ledger, delivery(body).id)
    assert row is not None
    return {run.handler: run.outcome for run in row.runs}


def state(resources: Resources, body: bytes) -> DeliveryState:
    with resources.engine.connect() as ledger:
        row = deliveries.get(ledger, delivery(body).id)
    assert row is not None
    return row.state


def record_of(resources: Resources, session_id: str = "S1") -> Any:
    with resources.engine.connect() as ledger:
        return sessions.get(ledger, session_id)


def written(resources: Resources) -> list[str]:
    with resources.engine.connect() as ledger:
        return sorted(ledger.scalars(select(notes.c.text)))


@on(SessionStarted)
def note_start(event: SessionStarted, ctx: Context) -> None:
    ctx.write(insert(notes).values(text=f"started {event.session_id}"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, valkey: redis.Redis) -> Callable[[], dict[tuple[str, ...], float]]:
    """Return what this test has counted, as it is in Redis."""
    monkeypatch.setattr(work_metrics, "COUNTS", SharedCounts())

    def read() -> dict[tuple[str, ...], float]:
        found = [sample for each in SharedCollector(valkey, work_metrics.METRICS).collect() for sample in each.samples]
        return {(each.name, *each.labels.values()): each.value for each in found if not each.name.endswith("_bucket")}

    return read


def test_committed_outcomes_and_the_time_until_all_have_ended_are_counted_once(
    resources_with: MakeResources, counted: Callable[[], dict[tuple[str, ...], float]]
) -> None:
    tries: list[int] = []

    @on(SessionStarted)
    def note_start(_event: SessionStarted, _ctx: Context) -> None:
        if not tries:
            tries.append(1)
            raise RetryLater("not yet", after=timedelta(milliseconds=1))

    resources = resources_with(note_start)
    names = ("SESSION_STARTED", "SOMETHING_NEW", None)
    given = batch(said("SESSION_STARTED"), said("SOMETHING_NEW", "S2"), b"not JSON")
    named = tuple(replace(each, event=name) for each, name in zip(given.deliveries, names, strict=True))
    given = replace(given, deliveries=named)
    work(resources, given)
    assert ("webhooks_delivery_settled_seconds_count", "SESSION_STARTED") not in counted()
    work(resources, given)  # as after a crash before it was acknowledged: nothing is counted twice
    while not work_queued(resources):
        enqueue_due_runs(resources)
    numbers = counted()
    assert {key[1:]: value for key, value in numbers.items() if key[0] == "webhooks_runs_total"} == {
        ("session_record", "done"): 1,
        ("note_start", "again"): 1,
        ("note_start", "done"): 1,
        (WHOLE_DELIVERY, "ignored"): 1,
    }
    settled = {key[1:]: value for key, value in numbers.items() if key[0] == "webhooks_delivery_settled_seconds_count"}
    assert settled == {("SESSION_STARTED",): 1, ("other",): 1}
    assert numbers["webhooks_run_duration_seconds_count", "note_start"] == 2


def test_a_batch_becomes_a_record_whatever_its_order(resources_with: MakeResources) -> None:
    resources = resources_with()
    bodies = [said("SESSION_STARTED"), said("SESSION_STOPPED", minutes=30), said("SESSION_COMPLETE", minutes=31)]
    random.Random(7).shuffle(bodies)
    for body in bodies:
        work(resources, batch(body))
    session = record_of(resources)
    assert (session.status, session.user_id, session.started_at) == ("COMPLETE", "driver-1", START)
    assert {state(resources, body) for body in bodies} == {DeliveryState.SETTLED}


def test_a_batch_worked_twice_has_its_effects_once(resources_with: MakeResources) -> None:
    resources = resources_with(note_start)
    given = batch(said("SESSION_STARTED"))
    work(resources, given)
    work(resources, given)
    assert written(resources) == ["started S1"]


def test_a_batch_is_completed_after_a_crash_between_records_and_outcomes(
    resources_with: MakeResources,
) -> None:
    resources = resources_with(note_start)
    given = batch(said("SESSION_STARTED"))
    with resources.engine.begin() as ledger:
        deliveries.store(ledger, given.deliveries, {given.deliveries[0].id: (DeliveryState.RUNNING, None)})
    work(resources, given)
    assert written(resources) == ["started S1"]
    assert state(resources, given.deliveries[0].body or b"") is DeliveryState.SETTLED


def test_records_come_before_handlers(resources_with: MakeResources) -> None:
    seen: list[str | None] = []

    @on(SessionStarted)
    def read_session(event: SessionStarted, ctx: Context) -> None:
        seen.append(ctx.session(event.session_id).status)

    work(resources_with(read_session), batch(said("SESSION_STARTED"), said("SESSION_COMPLETE", minutes=5)))
    assert seen == ["COMPLETE"]


def test_no_transaction_is_open_while_a_handler_runs(resources_with: MakeResources, database_url: str) -> None:
    @on(SessionStarted)
    def write_elsewhere(event: SessionStarted, ctx: Context) -> None:
        other = create_engine(database_url)
        with other.begin() as connection:  # on SQLite this waits for the lock of the file
            connection.execute(insert(notes).values(text=event.session_id))
        other.dispose()

    resources = resources_with(write_elsewhere)
    work(resources, batch(said("SESSION_STARTED")))
    assert outcomes(resources, said("SESSION_STARTED"))["write_elsewhere"] is Outcome.DONE


def test_a_failing_handler_harms_only_itself(resources_with: MakeResources) -> None:
    @on(SessionStarted)
    def broken(event: SessionStarted, ctx: Context) -> None:
        ctx.write(insert(notes).values(text="must not stand"))
        raise ZeroDivisionError("by design")

    resources = resources_with(broken, note_start)
    good, other = said("SESSION_STARTED"), said("SESSION_COMPLETE", "S2")
    work(resources, batch(good, other))
    assert written(resources) == ["started S1"]
    assert outcomes(resources, good) == {
        "session_record": Outcome.DONE,
        "note_start": Outcome.DONE,
        "broken": Outcome.AGAIN,
    }
    assert (state(resources, good), state(resources, other)) == (DeliveryState.RETRYING, DeliveryState.SETTLED)


def test_runs_that_failed_are_tried_again_together_in_the_background(resources_with: MakeResources) -> None:
    attempts: list[int] = []

    @on(SessionStarted)
    def third_time_lucky(event: SessionStarted, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError("not yet")

    resources = resources_with(third_time_lucky, retry_first=timedelta(milliseconds=1))
    bodies = [said("SESSION_STARTED", f"S{number}") for number in range(20)]
    work(resources, batch(*bodies))
    for attempt in (2, 3):
        wait_until_all_are_due(resources)
        assert enqueue_due_runs(resources) == 20
        (job,) = queue("background", resources.connection).jobs
        assert {number for _, number in job.args[1]} == {attempt}
        work_queued(resources)
    assert sorted(attempts) == [1] * 20 + [2] * 20 + [3] * 20
    assert {state(resources, body) for body in bodies} == {DeliveryState.SETTLED}


def wait_until_all_are_due(resources: Resources) -> None:
    with resources.engine.begin() as ledger:
        ledger.execute(update(run_table).where(run_table.c.due_at.is_not(None)).values(due_at=START))


def test_few_jobs_of_a_handler_wait_in_the_background_and_none_delays_another_handler(
    resources_with: MakeResources,
) -> None:
    @on(SessionStarted)
    def hopeless(event: SessionStarted, ctx: Context) -> None:
        raise ZeroDivisionError("by design")

    @on(SessionComplete)
    def unlucky(event: SessionComplete, ctx: Context) -> None:
        raise ZeroDivisionError("by design")

    resources = resources_with(hopeless, unlucky, retry_first=timedelta(hours=1))
    work(resources, batch(*(said("SESSION_STARTED", f"S{number}") for number in range(3 * RUNS_PER_JOB))))
    work(resources, batch(said("SESSION_COMPLETE")))
    wait_until_all_are_due(resources)
    assert enqueue_due_runs(resources) == 2 * RUNS_PER_JOB + 1
    assert enqueue_due_runs(resources) == 0
    background = queue("background", resources.connection)
    assert [(job.args[0], len(job.args[1])) for job in background.jobs] == [
        ("hopeless", RUNS_PER_JOB),
        ("hopeless", RUNS_PER_JOB),
        ("unlucky", 1),
    ]
    assert list(stuck_overdue(resources)) == []
    work_queued(resources)
    assert enqueue_due_runs(resources) == 0  # the full job has enqueued the rest
    assert [len(job.args[1]) for job in background.jobs] == [RUNS_PER_JOB]


def stuck_overdue(resources: Resources) -> list[str]:
    with resources.engine.connect() as ledger:
        return list(stuck._overdue(ledger))  # noqa: SLF001 - its other parts need an inbox


def test_a_run_that_crashed_its_worker_gets_a_job_of_its_own(resources_with: MakeResources) -> None:
    resources = resources_with(note_start)
    bodies = [said("SESSION_STARTED", f"S{number}") for number in range(3)]
    with resources.engine.begin() as ledger:
        for body in bodies:
            deliveries.store(ledger, [delivery(body)], {delivery(body).id: (DeliveryState.RUNNING, None)})
        ids = [delivery(body).id for body in bodies]
        waiting = {"handler": "note_start", "queue": "sessions", "outcome": Outcome.WAITING, "due_at": START}
        runs.insert_runs(ledger, [RunRecord(delivery_id=id_, **waiting) for id_ in ids])
        runs.claim(ledger, "note_start", [(id_, 1) for id_ in ids], "job", START)
        run_schedule.fail_crashed(ledger, run_schedule.running(ledger), now=START, deaths_allowed=3, error="died")
    assert enqueue_due_runs(resources) == 3
    assert [len(job.args[1]) for job in queue("background", resources.connection).jobs] == [1, 1, 1]
    assert work_queued(resources) == 3
    assert written(resources) == ["started S0", "started S1", "started S2"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_slow_handler_is_moved_to_the_background_and_stays_there(
    resources_with: MakeResources, monkeypatch: pytest.MonkeyPatch, *, asynchronous: bool
) -> None:
    monkeypatch.setattr(handler_durations, "SLOW", timedelta(seconds=0.02))
    monkeypatch.setattr(handler_durations, "REMEMBERED", 10_000)
    monkeypatch.setattr(jobs, "HANDLERS_BUDGET", timedelta(seconds=0.02))

    @on(SessionStarted, name="slow")
    def slow(event: SessionStarted, ctx: Context) -> None:
        time.sleep(0.05)
        ctx.write(insert(notes).values(text=f"{event.session_id} at attempt {ctx.attempt}"))

    @on(SessionStarted, name="slow")
    async def slow_together(event: SessionStarted, ctx: Context) -> None:
        slow(event, ctx)

    resources = resources_with(slow_together if asynchronous else slow, handler_concurrency=1)
    work(resources, batch(said("SESSION_STARTED", "S0"), said("SESSION_STARTED", "S1")))
    work(resources, batch(said("SESSION_STARTED", "S2")))
    assert written(resources) == ["S0 at attempt 1"]
    assert record_of(resources, "S2").status == "STARTED"
    background = queue("background", resources.connection)
    while background.count:
        work_queued(resources)
    assert written(resources) == [f"S{number} at attempt 1" for number in range(3)]
    handler_durations.forget()
    work(resources, batch(said("SESSION_STARTED", "S3")))
    assert written(resources)[3] == "S3 at attempt 1"


def test_a_job_whose_handler_is_slow_makes_few_calls_and_leaves_the_rest_unchanged(
    resources_with: MakeResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    @on(SessionStarted)
    def first_fails_then_slow(event: SessionStarted, ctx: Context) -> None:
        calls.append(ctx.attempt)
        if ctx.attempt == 1:
            raise ZeroDivisionError("by design")
        time.sleep(0.05)

    resources = resources_with(first_fails_then_slow)
    work(resources, batch(*(said("SESSION_STARTED", f"S{number}") for number in range(5))))
    monkeypatch.setattr(jobs, "HANDLERS_BUDGET", timedelta(seconds=0.02))
    wait_until_all_are_due(resources)
    enqueue_due_runs(resources)
    work_queued(resources)
    with resources.engine.connect() as ledger:
        query = select(run_table.c.outcome, run_table.c.attempts, run_table.c.error.is_(None))
        found = sorted(ledger.execute(query.where(run_table.c.handler == "first_fails_then_slow")).all())
    assert found == [(Outcome.AGAIN, 1, False)] * 4 + [(Outcome.DONE, 2, True)]
    while queue("background", resources.connection).count:
        work_queued(resources)
    assert calls == [1] * 5 + [2] * 5


def test_a_warning_does_not_wait_for_another_handler_of_the_same_event(resources_with: MakeResources) -> None:
    called: list[str] = []
    warning = fee()

    @on(SessionFeeIncurring)
    def look(event: SessionFeeIncurring, ctx: Context) -> None:
        called.append(event.session_id)

    resources = resources_with(look, warn)
    work(resources, batch(said("SESSION_STARTED")))
    process_batch(resources, replace(batch(warning), queue="urgent"))
    with resources.engine.connect() as ledger:
        assert len(pushes.find(ledger)) == 1
    assert (called, state(resources, warning)) == ([], DeliveryState.RETRYING)
    enqueue_due_runs(resources)
    assert queue("background", resources.connection).count == 1
    assert queue("urgent", resources.connection).count == 0
    work_queued(resources)
    assert called == ["S1"]
    assert state(resources, warning) is DeliveryState.SETTLED


def test_each_attempt_that_fails_is_logged(resources_with: MakeResources, monkeypatch: pytest.MonkeyPatch) -> None:
    @on(SessionStarted)
    def broken(event: SessionStarted, ctx: Context) -> None:
        if ctx.attempt == 1:
            ctx.write(insert(notes).values(text=None, nothing_like_it=1))
        else:
            raise ZeroDivisionError("by design")

    resources = resources_with(broken, retry_first=timedelta(milliseconds=1), retry_attempts=2)
    monkeypatch.setattr(jobs, "open_resources", lambda: resources)
    given = batch(said("SESSION_STARTED"), said("SESSION_COMPLETE"))
    monkeypatch.setattr(Batch, "from_json", lambda _text: given)
    resources.connection.set(batch_key(given.id), b"of the relay")
    with capture_logs() as logs:
        jobs.work_batch(given.id)
        while not (waiting := queue("background", resources.connection).jobs):
            enqueue_due_runs(resources)
        (job,) = waiting
        monkeypatch.setattr(jobs, "get_current_job", lambda: job)
        jobs.work_runs(*job.args)
    lines = [line for line in logs if line["event"] == "run.failed"]
    assert [(line["handler"], line["attempt"], line["outcome"]) for line in lines] == [
        ("broken", 1, "again"),
        ("broken", 2, "dead"),
    ]
    assert lines[1]["error"] == "ZeroDivisionError"
    assert "in broken" in lines[1]["exception"]


def test_a_run_that_fails_too_often_is_a_dead_letter_with_its_traceback(
    resources_with: MakeResources,
) -> None:
    @on(SessionStarted)
    def hopeless(event: SessionStarted, ctx: Context) -> None:
        raise ZeroDivisionError("by design")

    resources = resources_with(hopeless, retry_attempts=1)
    work(resources, batch(said("SESSION_STARTED")))
    assert state(resources, said("SESSION_STARTED")) is DeliveryState.DEAD
    registry = queue("sessions", resources.connection).failed_job_registry
    (job_id,) = registry.get_job_ids()
    job = queue("sessions", resources.connection).fetch_job(job_id)
    assert job is not None
    result = job.latest_result()
    assert result is not None
    assert "ZeroDivisionError: by design" in str(result.exc_string)
    assert "hopeless" in str(job.description)
    assert publish_dead_letters(resources) == 0
    with resources.engine.connect() as ledger:
        row = deliveries.get(ledger, delivery(said("SESSION_STARTED")).id)
    assert row is not None
    assert job.ended_at in [run.finished_at for run in row.runs if run.handler == "hopeless"]


def test_a_requeued_dead_letter_runs_once_more(resources_with: MakeResources) -> None:
    mended = False

    @on(SessionStarted)
    def mendable(event: SessionStarted, ctx: Context) -> None:
        if not mended:
            raise GiveUp("the table is missing")

    resources = resources_with(mendable)
    work(resources, batch(said("SESSION_STARTED")))
    registry = queue("sessions", resources.connection).failed_job_registry
    mended = True
    registry.requeue(registry.get_job_ids()[0])
    assert work_queued(resources) == 1
    assert outcomes(resources, said("SESSION_STARTED"))["mendable"] is Outcome.DONE


def test_a_requeued_dead_letter_that_fails_is_a_dead_letter_again(resources_with: MakeResources) -> None:
    @on(SessionStarted)
    def hopeless(event: SessionStarted, ctx: Context) -> None:
        raise GiveUp("the table is still missing")

    resources = resources_with(hopeless)
    work(resources, batch(said("SESSION_STARTED")))
    registry = queue("sessions", resources.connection).failed_job_registry
    (first,) = registry.get_job_ids()
    registry.requeue(first)
    assert work_queued(resources) == 1
    (second,) = registry.get_job_ids()
    assert second != first
    assert publish_dead_letters(resources) == 0


def test_a_failing_write_fails_its_own_run_only(resources_with: MakeResources) -> None:
    @on(SessionComplete)
    def write_twice(event: SessionComplete, ctx: Context) -> None:
        ctx.write(insert(notes).values(text="twice"))
        ctx.write(insert(notes).values(text="twice"))

    resources = resources_with(note_start, write_twice)
    work(resources, batch(said("SESSION_STARTED"), said("SESSION_COMPLETE")))
    assert written(resources) == ["started S1"]
    assert outcomes(resources, said("SESSION_COMPLETE"))["write_twice"] is Outcome.AGAIN


def test_one_failing_write_in_a_batch_fails_no_other_run(resources_with: MakeResources) -> None:
    note = insert(notes)

    @on(SessionStarted)
    def note_once(event: SessionStarted, ctx: Context) -> None:
        ctx.write(note, {"text": "the same" if event.session_id in {"S3", "S6"} else event.session_id})

    resources = resources_with(note_once)
    work(resources, batch(*(said("SESSION_STARTED", f"S{number}") for number in range(9))))
    assert written(resources) == ["S0", "S1", "S2", "S4", "S5", "S7", "S8", "the same"]
    ended = [outcomes(resources, said("SESSION_STARTED", f"S{number}"))["note_once"] for number in range(9)]
    assert [number for number, outcome in enumerate(ended) if outcome is Outcome.AGAIN] == [6]
    assert ended.count(Outcome.DONE) == 8


def test_writes_with_values_are_executed_in_order(resources_with: MakeResources) -> None:
    note, strike = insert(notes), delete(notes).where(notes.c.text == bindparam("gone"))

    @on(SessionStarted)
    def note_and_strike(event: SessionStarted, ctx: Context) -> None:
        ctx.write(strike, {"gone": "noted"})
        ctx.write(note, {"text": "noted"})
        ctx.write(note, {"text": event.session_id})
        ctx.write(note.values(text=f"{event.session_id} again"))

    resources = resources_with(note_and_strike)
    work(resources, batch(*(said("SESSION_STARTED", f"S{number}") for number in range(3))))
    assert written(resources) == ["S0", "S0 again", "S1", "S1 again", "S2", "S2 again", "noted"]


def test_an_event_without_a_handler_is_ignored_and_an_unreadable_one_is_stored(
    resources_with: MakeResources,
) -> None:
    resources = resources_with()
    unknown, odd = said("SESSION_ON_THE_MOON"), b'{"event": "SESSION_STARTED", "payload": 7}'
    work(resources, batch(unknown, odd, b"\xff\x00 not JSON"))
    assert outcomes(resources, unknown) == {WHOLE_DELIVERY: Outcome.IGNORED}
    assert state(resources, unknown) is DeliveryState.SETTLED
    assert state(resources, odd) is DeliveryState.UNREADABLE
    with resources.engine.connect() as ledger:
        (row, *_) = deliveries.find(ledger, DeliveryFilters(state=DeliveryState.UNREADABLE), 10)
        assert row.reason
        kept = deliveries.get(ledger, delivery(b"\xff\x00 not JSON").id)
    assert kept is not None
    assert kept.body == b"\xff\x00 not JSON"


def test_handlers_may_take_unknown_events_and_cdrs(resources_with: MakeResources) -> None:
    seen: list[str] = []

    @on(UnknownEvent, ChargingRecord)
    def collect(event: Event, ctx: Context) -> None:
        seen.append(type(event).__name__)

    cdr = Batch(new_batch_id(), "inbox-1", "cdrs", (delivery(b'{"requestId": "r1", "cost": 1.10}', Kind.CDRS),))
    resources = resources_with(collect)
    work(resources, batch(said("SESSION_ON_THE_MOON")))
    work(resources, cdr)
    assert seen == ["UnknownEvent", "ChargingRecord"]


def test_async_handlers_of_a_batch_run_together(resources_with: MakeResources) -> None:
    meeting: set[str] = set()
    together = asyncio.Event()

    @on(SessionStarted)
    async def meet(event: SessionStarted, ctx: Context) -> None:
        meeting.add(event.session_id)
        if len(meeting) == 3:
            together.set()
        await together.wait()
        ctx.write(insert(notes).values(text=event.session_id))

    resources = resources_with(meet)
    work(resources, batch(*(said("SESSION_STARTED", f"S{number}") for number in range(3))))
    assert written(resources) == ["S0", "S1", "S2"]


def test_a_connection_that_an_async_handler_keeps_works_in_the_next_batch(resources_with: MakeResources) -> None:
    kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    @on(SessionStarted)
    async def read(event: SessionStarted, ctx: Context) -> None:
        if not kept:
            kept.append(await asyncio.open_connection(sock=ours))
        ctx.write(insert(notes).values(text=(await kept[0][0].readexactly(1)).decode()))

    ours, theirs = socket.socketpair()
    resources = resources_with(read)
    with theirs:
        for number in range(3):
            theirs.send(str(number).encode())
            work(resources, batch(said("SESSION_STARTED", f"S{number}")))
    assert written(resources) == ["0", "1", "2"]


def test_a_copy_of_the_process_that_an_async_handler_forks_ends_with_it(
    resources_with: MakeResources, tmp_path: Path
) -> None:
    children: list[int] = []
    seen = tmp_path / "calls"

    @on(SessionStarted)
    async def fork_and_note(event: SessionStarted, ctx: Context) -> None:
        if event.session_id == "S0":
            children.append(os.fork())
        with seen.open("a") as file:
            file.write(f"{event.session_id}\n")

    process = os.getpid()
    try:
        resources = resources_with(fork_and_note, handler_concurrency=1)
        work(resources, batch(*(said("SESSION_STARTED", f"S{number}") for number in range(3))))
    finally:
        if os.getpid() != process:  # as it was before
            os._exit(1)
    _, status = os.waitpid(children[0], 0)
    assert status == 0
    assert sorted(seen.read_text().split()) == ["S0", "S0", "S1", "S2"]


def test_what_an_async_handler_leaves_running_is_cancelled_at_the_end_of_the_batch(
    resources_with: MakeResources,
) -> None:
    left: list[asyncio.Task[None]] = []

    @on(SessionStarted)
    async def leave_a_task(event: SessionStarted, ctx: Context) -> None:
        left.append(asyncio.create_task(asyncio.sleep(60)))

    work(resources_with(leave_a_task), batch(said("SESSION_STARTED")))
    assert left[0].cancelled()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_handler_that_hangs_is_timed_out(resources_with: MakeResources, *, asynchronous: bool) -> None:
    @on(SessionStarted, name="hang")
    def hang(event: SessionStarted, ctx: Context) -> None:
        while True:
            pass

    @on(SessionStarted, name="hang")
    async def hang_politely(event: SessionStarted, ctx: Context) -> None:
        await asyncio.Event().wait()

    resources = resources_with(
        hang_politely if asynchronous else hang, note_start, handler_timeout=timedelta(milliseconds=50)
    )
    overruns = HandlerDeadline.overruns
    work(resources, batch(said("SESSION_STARTED")))
    assert HandlerDeadline.overruns == overruns + 1
    assert outcomes(resources, said("SESSION_STARTED"))["hang"] is Outcome.AGAIN
    assert written(resources) == ["started S1"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_slow_handlers_do_not_crash_their_worker(
    resources_with: MakeResources, monkeypatch: pytest.MonkeyPatch, *, asynchronous: bool
) -> None:
    called: list[str] = []

    @on(SessionStarted, name="slow")
    def slow(event: SessionStarted, ctx: Context) -> None:
        called.append(event.session_id)
        if len(called) == 10:
            time.sleep(jobs.HANDLERS_BUDGET.total_seconds())
        ctx.write(insert(notes).values(text=event.session_id))

    @on(SessionStarted, name="slow")
    async def slow_together(event: SessionStarted, ctx: Context) -> None:
        slow(event, ctx)

    monkeypatch.setattr(jobs, "HANDLERS_BUDGET", timedelta(seconds=0.5))
    resources = resources_with(slow_together if asynchronous else slow)
    ids = [f"S{number:02}" for number in range(30)]
    work(resources, batch(*(said("SESSION_STARTED", session_id) for session_id in ids)))
    begun = len(called)
    assert begun < len(ids)
    assert written(resources) == sorted(called)
    assert work_queued(resources) == len(ids) - begun
    assert written(resources) == sorted(called) == ids


def test_the_job_timeout_of_a_batch_exceeds_its_start_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    waiting_for_the_ledger = timedelta(seconds=2 * RETRY_FOR)
    assert jobs.RECORDS_BUDGET + jobs.HANDLERS_BUDGET * 2 + CLEANUP_GRACE + waiting_for_the_ledger < JOB_TIMEOUT


def test_a_record_function_that_hangs_is_timed_out(resources_with: MakeResources) -> None:
    @record(SessionStarted)
    def hang(session: Session, event: SessionStarted) -> Session:
        while event.session_id == "S1":
            pass
        return session

    resources = resources_with(hang, note_start, handler_timeout=timedelta(milliseconds=50))
    work(resources, batch(said("SESSION_STARTED"), said("SESSION_STARTED", "S2")))
    assert outcomes(resources, said("SESSION_STARTED")) == {
        "session_record": Outcome.DONE,
        "hang": Outcome.AGAIN,
        "note_start": Outcome.DONE,
    }
    assert outcomes(resources, said("SESSION_STARTED", "S2"))["hang"] is Outcome.DONE


def test_slow_record_functions_wait_for_jobs_of_their_own(
    resources_with: MakeResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = resources_with()
    monkeypatch.setattr(jobs, "RECORDS_BUDGET", timedelta())
    work(resources, batch(said("SESSION_STARTED")))
    assert outcomes(resources, said("SESSION_STARTED")) == {"session_record": Outcome.WAITING}
    assert work_queued(resources) == 1
    assert record_of(resources).started_at == START
    assert state(resources, said("SESSION_STARTED")) is DeliveryState.SETTLED


def test_the_timeout_of_a_job_ends_the_job_and_not_only_its_async_handler(
    resources_with: MakeResources,
) -> None:
    @on(SessionStarted)
    async def interrupted(event: SessionStarted, ctx: Context) -> None:
        raise JobTimeoutException("Task exceeded maximum timeout value")

    with pytest.raises(JobTimeoutException):
        work(resources_with(interrupted), batch(said("SESSION_STARTED")))


class PanicError(BaseException):
    """What extensions in Rust raise: no Exception."""


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), PanicError("broken"), asyncio.CancelledError()])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_handler_that_exits_does_not_end_the_worker(
    resources_with: MakeResources, raised: BaseException, *, asynchronous: bool
) -> None:
    @on(SessionStarted, name="leave")
    def leave(event: SessionStarted, ctx: Context) -> None:
        raise raised

    @on(SessionStarted, name="leave")
    async def leave_later(event: SessionStarted, ctx: Context) -> None:
        raise raised

    resources = resources_with(leave_later if asynchronous else leave, note_start)
    work(resources, batch(said("SESSION_STARTED")))
    assert outcomes(resources, said("SESSION_STARTED"))["leave"] is Outcome.AGAIN
    assert written(resources) == ["started S1"]


def test_a_handler_that_swallows_its_timeout_is_timed_out_again(resources_with: MakeResources) -> None:
    cut_off: list[str] = []

    @on(SessionStarted)
    def stubborn(event: SessionStarted, ctx: Context) -> None:
        while len(cut_off) < 2:
            try:
                while True:
                    pass
            except HandlerTimedOut as timeout:
                cut_off.append(str(timeout))

    work(resources_with(stubborn, handler_timeout=timedelta(milliseconds=30)), batch(said("SESSION_STARTED")))
    assert len(cut_off) == 2


def test_a_database_without_tables_is_unavailable_and_no_crash(
    resources_with: MakeResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = resources_with()
    with resources.engine.begin() as ledger:
        ledger.execute(text("ALTER TABLE sessions RENAME TO elsewhere"))
    monkeypatch.setattr(jobs, "run_in_transaction", partial(run_in_transaction, retry_for=0.1))
    with pytest.raises(LedgerUnavailable):
        process_batch(resources, batch(said("SESSION_STARTED")))
    with resources.engine.begin() as ledger:
        ledger.execute(text("ALTER TABLE elsewhere RENAME TO sessions"))
    work(resources, batch(said("SESSION_STARTED")))
    assert state(resources, said("SESSION_STARTED")) is DeliveryState.SETTLED


@on(SessionFeeIncurring, queue="urgent")
def warn(event: SessionFeeIncurring, ctx: Context) -> None:
    session = ctx.session(event.session_id, until=event.fee_will_apply_from)
    ctx.push(session.user_id, title="Fee", body="soon", collapse_key=f"fee:{event.session_id}", payload={"a": "b"})


def test_a_handler_with_a_queue_has_a_job_of_its_own(resources_with: MakeResources) -> None:
    resources = resources_with(warn)
    work(resources, batch(said("SESSION_STARTED"), fee()))
    (job,) = queue("urgent", resources.connection).jobs
    assert job.args[0] == "warn"
    assert "driver-1" not in str(job.args) + str(job.description)
    assert work_queued(resources) == 1
    assert send_due(resources) == 1
    with resources.engine.connect() as ledger:
        (push,) = pushes.find(ledger)
    assert (push.state, push.user_id, push.channel) == (PushState.SENT, "driver-1", "log")


def test_a_handler_whose_queue_is_that_of_the_batch_runs_inline(resources_with: MakeResources) -> None:
    resources = resources_with(warn)
    work(resources, batch(said("SESSION_STARTED")))
    work(resources, replace(batch(fee()), queue="urgent"))
    assert queue("urgent", resources.connection).count == 0
    assert send_due(resources) == 1


def test_first_attempts_of_a_handler_share_a_job(resources_with: MakeResources) -> None:
    resources = resources_with(warn)
    work(resources, batch(*(fee(f"S{number}") for number in range(30))))
    (job,) = queue("urgent", resources.connection).jobs
    assert len(job.args[1]) == 30


def test_runs_that_wait_for_a_driver_come_back_together(resources_with: MakeResources) -> None:
    resources = resources_with(warn)
    numbers = range(30)
    work(resources, batch(*(fee(f"S{number}") for number in numbers)))
    work_queued(resources)
    work(resources, batch(*(said("SESSION_STARTED", f"S{number}") for number in numbers)))
    assert queue("urgent", resources.connection).count == 1
    assert work_queued(resources) == 30
    with resources.engine.connect() as ledger:
        assert len(pushes.find(ledger)) == 30


def test_a_warning_waits_for_its_driver_and_is_sent_as_soon_as_one_is_known(
    resources_with: MakeResources,
) -> None:
    resources = resources_with(warn)
    warning = fee()
    work(resources, batch(warning))
    work_queued(resources)
    assert outcomes(resources, warning)["warn"] is Outcome.AGAIN
    work(resources, batch(said("SESSION_STARTED")))  # the news make the run due, and offer it
    assert work_queued(resources) == 1
    assert outcomes(resources, warning)["warn"] is Outcome.DONE


def test_a_run_whose_driver_becomes_known_meanwhile_does_not_wait(
    resources_with: MakeResources,
) -> None:
    @on(SessionFeeIncurring)
    def look_too_early(event: SessionFeeIncurring, ctx: Context) -> None:
        try:
            ctx.session(event.session_id)
        finally:
            if ctx.attempt == 1:  # by a machine whose clock is behind; the run is not there yet, so it is not woken
                work(resources, batch(said("SESSION_STARTED")))
                with resources.engine.begin() as ledger:
                    ledger.execute(update(session_table).values(updated_at=START))

    resources, warning = resources_with(look_too_early), fee()
    work(resources, batch(warning))
    assert outcomes(resources, warning)["look_too_early"] is Outcome.AGAIN
    assert enqueue_due_runs(resources) == 1
    assert work_queued(resources) == 1
    assert outcomes(resources, warning)["look_too_early"] is Outcome.DONE


def test_a_run_whose_time_is_over_ends_moot_with_its_reason(resources_with: MakeResources) -> None:
    resources = resources_with(warn)
    warning = fee(in_minutes=-1)
    work(resources, batch(warning))
    work_queued(resources)
    with resources.engine.connect() as ledger:
        row = deliveries.get(ledger, delivery(warning).id)
    assert row is not None
    (run,) = [run for run in row.runs if run.handler == "warn"]
    assert run.outcome is Outcome.MOOT
    assert "driver" in str(run.reason)
    assert row.state is DeliveryState.SETTLED


def test_a_handler_can_raise_moot_or_retry_later(resources_with: MakeResources) -> None:
    @on(SessionStarted)
    def never_mind(event: SessionStarted, ctx: Context) -> None:
        raise Moot("nothing to do")

    @on(SessionStarted)
    def tomorrow(event: SessionStarted, ctx: Context) -> None:
        raise RetryLater("the office is closed", after=timedelta(days=1))

    resources = resources_with(never_mind, tomorrow)
    work(resources, batch(said("SESSION_STARTED")))
    with resources.engine.connect() as ledger:
        row = deliveries.get(ledger, delivery(said("SESSION_STARTED")).id)
    assert row is not None
    found = {run.handler: run for run in row.runs}
    assert found["never_mind"].outcome is Outcome.MOOT
    assert found["tomorrow"].outcome is Outcome.AGAIN
    due_at = found["tomorrow"].due_at
    assert due_at is not None
    assert due_at > datetime.now(UTC) + timedelta(hours=23)


def test_an_isolated_delivery_gets_a_job_for_each_run(resources_with: MakeResources) -> None:
    resources = resources_with(note_start)
    work(resources, batch(said("SESSION_STARTED"), isolated=True))
    assert written(resources) == []
    assert work_queued(resources) == 1
    assert written(resources) == ["started S1"]


def test_poison_is_dead_lettered_without_decoding_it(resources_with: MakeResources) -> None:
    resources = resources_with(note_start)
    run_post_commit(resources, dead_letter_poison(resources, batch(said("SESSION_STARTED"), poison=True)))
    assert outcomes(resources, said("SESSION_STARTED")) == {WHOLE_DELIVERY: Outcome.DEAD}
    assert state(resources, said("SESSION_STARTED")) is DeliveryState.DEAD
    assert queue("sessions", resources.connection).failed_job_registry.count == 1
    assert record_of(resources) is None


def test_an_attempt_runs_on_one_worker_only(resources_with: MakeResources) -> None:
    resources = resources_with(note_start)
    body = said("SESSION_STARTED")
    work(resources, batch(body, isolated=True))
    attempts = [[delivery(body).id, 1]]
    run_post_commit(resources, execute_runs(resources, "note_start", attempts, "job-1"))
    run_post_commit(resources, execute_runs(resources, "note_start", attempts, "job-2"))
    assert written(resources) == ["started S1"]


def test_a_worker_that_was_given_up_has_no_effects(resources_with: MakeResources) -> None:
    body = said("SESSION_STARTED")

    @on(SessionStarted)
    def slow(event: SessionStarted, ctx: Context) -> None:
        ctx.write(insert(notes).values(text=f"attempt {ctx.attempt}"))
        if ctx.attempt == 1:  # given up as dead meanwhile, and made by another worker
            with resources.engine.begin() as ledger:
                run_schedule.fail_crashed(
                    ledger,
                    run_schedule.running(ledger),
                    now=datetime.now(UTC),
                    deaths_allowed=3,
                    error="the worker died",
                )
            execute_runs(resources, "slow", [[delivery(body).id, 2]], "job-2")

    resources = resources_with(slow)
    work(resources, batch(body, isolated=True))
    execute_runs(resources, "slow", [[delivery(body).id, 1]], "job-1")
    assert written(resources) == ["attempt 2"]
    assert outcomes(resources, body)["slow"] is Outcome.DONE


def test_a_run_of_a_handler_that_is_gone_is_a_dead_letter(resources_with: MakeResources) -> None:
    body = said("SESSION_STARTED")
    work(resources_with(note_start), batch(body, isolated=True))
    without = resources_with()
    work_queued(without)
    assert outcomes(without, body)["note_start"] is Outcome.DEAD


def test_a_record_run_on_an_unreadable_delivery_is_a_dead_letter(resources_with: MakeResources) -> None:
    resources = resources_with()
    unreadable = delivery(b"read by a newer version")
    waiting = RunRecord(
        delivery_id=unreadable.id, handler="session_record", queue="sessions", outcome=Outcome.WAITING, due_at=START
    )
    with resources.engine.begin() as ledger:
        deliveries.store(ledger, [unreadable], {unreadable.id: (DeliveryState.RUNNING, None)})
        runs.insert_runs(ledger, [waiting])
    enqueue_due_runs(resources)
    assert work_queued(resources) == 1
    assert outcomes(resources, unreadable.body)["session_record"] is Outcome.DEAD


def test_the_clock_enqueues_a_run_again_whose_job_was_lost(resources_with: MakeResources) -> None:
    resources = resources_with(note_start)
    work(resources, batch(said("SESSION_STARTED"), isolated=True))
    resources.connection.flushall()
    clock = Clock(resources, grace=timedelta(milliseconds=50))
    while not queue("sessions", resources.connection).count:
        clock.tick()
    assert work_queued(resources) == 1
    assert written(resources) == ["started S1"]


@pytest.fixture
def work_burst(valkey: redis.Redis) -> Callable[[], None]:
    """Let a real worker take all jobs of the queue `sessions`."""

    def work_all() -> None:
        queues = [queue("sessions", valkey)]
        worker = PreloadedWorker(queues, connection=valkey, serializer=JSONSerializer, job_class=AllowlistedJob)
        worker.work(burst=True, logging_level=None)
        assert queues[0].failed_job_registry.count == 1
        assert queues[0].count == 0

    return work_all


def test_a_run_whose_job_names_a_function_of_another_version_is_enqueued_again(
    resources_with: MakeResources, work_burst: Callable[[], None]
) -> None:
    resources = resources_with(note_start)
    work(resources, batch(said("SESSION_STARTED"), isolated=True))
    (job,) = queue("sessions", resources.connection).jobs
    job.func_name = "workers.process.work_runs"
    job.save()
    work_burst()
    clock = Clock(resources, grace=timedelta(milliseconds=50))
    while not queue("sessions", resources.connection).count:
        clock.tick()
    assert work_queued(resources) == 1
    assert written(resources) == ["started S1"]


def test_a_batch_whose_job_names_a_function_of_another_version_is_lost_for_its_relay(
    valkey: redis.Redis, work_burst: Callable[[], None]
) -> None:
    queue("sessions", valkey).enqueue_call("workers.process.work_batch", args=["b1"], job_id="b1")
    work_burst()
    monitor = LeaseMonitor(valkey, grace=timedelta(milliseconds=50))
    while monitor.poll({"b1": "sessions"})["b1"] is not JobState.LOST:
        pass  # the relay publishes the deliveries of lost batches again


def warned_users(resources: Resources) -> dict[str, PushState]:
    with resources.engine.connect() as ledger:
        return {push.user_id: push.state for push in pushes.find(ledger)}


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_session_that_changes_hands_after_its_warning_warns_the_new_driver(resources_with, is_sent):
    resources = resources_with(warn_the_driver)
    notice = fee()
    work(resources, batch(said("SESSION_STARTED"), notice))
    work_queued(resources)
    if is_sent:
        send_due(resources)
    work(resources, batch(said("SESSION_STOP_FAILED", minutes=1, user="driver-2")))
    assert state(resources, notice) is DeliveryState.RETRYING
    assert [queue(name, resources.connection).count for name in ("urgent", "background")] == [1, 0]
    work_queued(resources)
    former = PushState.SENT if is_sent else PushState.MOOT
    assert warned_users(resources) == {"driver-1": former, "driver-2": PushState.WAITING}
    assert state(resources, notice) is DeliveryState.SETTLED
    work(resources, batch(said("SESSION_STOP_FAILED", minutes=2, user="driver-2")))
    assert work_queued(resources) == 0


@pytest.mark.parametrize(
    ("minutes", "user", "lead"), [(-1, "driver-2", 10), (1, None, 10), (1, "driver-1", 10), (1, "driver-2", -10)]
)
def test_a_warning_is_not_repeated_for_an_older_driver_nor_after_its_time(resources_with, minutes, user, lead):
    resources = resources_with(warn_the_driver)
    work(resources, batch(said("SESSION_STARTED"), fee()))
    work_queued(resources)
    if lead < 0:
        with resources.engine.begin() as ledger:
            ledger.execute(update(push_table).values(expires_at=datetime.now(UTC) + timedelta(minutes=lead)))
    work(resources, batch(said("SESSION_STOP_FAILED", minutes=minutes, user=user)))
    assert work_queued(resources) == 0
    assert list(warned_users(resources)) == ["driver-1"]


def test_each_type_of_fee_of_a_session_is_told(resources_with):
    resources = resources_with(warn_the_driver)
    start = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    notices = [
        said("SESSION_FEE_INCURRING", user=None, feeWillApplyFrom=start, feeType=kind)
        for kind in ("BLOCKING", "CONGESTION")
    ]
    work(resources, batch(said("SESSION_STARTED"), *notices))
    work_queued(resources)
    send_due(resources)
    with resources.engine.connect() as ledger:
        found = pushes.find(ledger)
    assert sorted(push.title.split(" fee ")[0] for push in found) == ["Avoid a blocking", "Avoid a congestion"]
    assert {push.state for push in found} == {PushState.SENT}
    assert len({push.collapse_key for push in found}) == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_notices_of_one_second_the_later_start_counts_in_any_order(resources_with, order):
    resources = resources_with(warn_the_driver)
    now = datetime.now(UTC)
    starts = [(now + timedelta(minutes=minutes)).isoformat() for minutes in (10, 20)]
    notices = [said("SESSION_FEE_INCURRING", user=None, feeWillApplyFrom=start, feeType="BLOCKING") for start in starts]
    work(resources, batch(said("SESSION_STARTED")))
    for number in order:
        work(resources, batch(notices[number]))
        work_queued(resources)
    send_due(resources)
    with resources.engine.connect() as ledger:
        sent = [push.payload["fee_will_apply_from"] for push in pushes.find(ledger) if push.state is PushState.SENT]
    assert [datetime.fromisoformat(each) for each in sent] == [datetime.fromisoformat(starts[1])]


def test_a_record_that_succeeds_at_once_takes_no_row_and_is_not_made_again(
    resources_with: MakeResources, counted: Callable[[], dict[tuple[str, ...], float]]
) -> None:
    resources, body = resources_with(note_start), said("SESSION_STARTED")
    for _ in range(2):  # the second time it is known
        work(resources, batch(body, said("SESSION_STOPPED")))
    with resources.engine.connect() as ledger:
        assert list(ledger.execute(select(run_table.c.handler, run_table.c.attempts))) == [("note_start", 1)]
    assert outcomes(resources, body) == {"note_start": Outcome.DONE, "session_record": Outcome.DONE}
    assert state(resources, said("SESSION_STOPPED")) is state(resources, body) is DeliveryState.SETTLED
    assert counted()["webhooks_runs_total", "session_record", "done"] == 2


def test_what_is_known_and_whose_handler_is_gone_settles(resources_with: MakeResources) -> None:
    body = said("SESSION_STARTED")

    @on(SessionStarted)
    def note_start(_event: SessionStarted, _ctx: Context) -> None:
        raise JobTimeoutException

    with pytest.raises(JobTimeoutException):
        work(resources_with(note_start), batch(body))
    assert state(resources_with(), body) is DeliveryState.RUNNING
    work(resources_with(), batch(body))
    assert state(resources_with(), body) is DeliveryState.SETTLED


def test_a_batch_waits_for_a_database_that_is_away_for_a_moment(resources_with: MakeResources) -> None:
    resources, arrived = resources_with(note_start), replace(delivery(said("SESSION_STARTED")), session_id="S1")
    failures = iter([True, True])

    def fail_at_first(*_: object) -> None:
        if next(failures, False):
            raise OperationalError("SELECT", None, OSError())

    event.listen(resources.engine, "begin", fail_at_first)
    try:
        process_batch(resources, replace(batch(), deliveries=(arrived,)))
    finally:
        event.remove(resources.engine, "begin", fail_at_first)
    assert state(resources, said("SESSION_STARTED")) is DeliveryState.SETTLED


def remember_erased(resources: Resources) -> None:
    """Let the session S1 be erased, of which the ledger has nothing."""
    digest = erasure_digest(ledger_id(resources.engine), "s1")
    with resources.engine.begin() as ledger:
        remember(ledger, ErasureOrder("an-order", time.time(), "", frozenset({digest})))


def test_what_comes_of_an_erased_session_has_no_content_and_no_handler_sees_it(resources_with: MakeResources) -> None:
    seen: list[str] = []

    @on(SessionComplete)
    def look(event: SessionComplete, _ctx: Context) -> None:
        seen.append(event.session_id)

    @on(ChargingRecord)
    def count(_event: ChargingRecord, _ctx: Context) -> None:
        seen.append("a charging record")

    resources = resources_with(look, count)
    remember_erased(resources)
    session_ids = ("S1", "S2", "S1")
    bodies = (said("SESSION_COMPLETE"), said("SESSION_COMPLETE", "S2"), b'{"sessionId": "S1", "amount": 1}')
    kinds = (Kind.EVENTS, Kind.EVENTS, Kind.CDRS)
    arrived = [
        replace(delivery(body, kind), session_id=session_id)
        for body, kind, session_id in zip(bodies, kinds, session_ids, strict=True)
    ]
    ahead = replace(delivery(said("SESSION_STARTED")), session_id="S1")

    post_commit = process_batch(resources, replace(batch(), deliveries=tuple(arrived), read_ahead=(ahead,)))

    assert len(post_commit.settled) == len(arrived)
    assert sorted(seen) == ["S2", "a charging record"]  # the clock erases the record, so that totals stay exact
    with resources.engine.begin() as ledger:
        rows = deliveries.get_many(ledger, [each.id for each in arrived], bodies=True)
        late = next(row for row in rows if row.id == arrived[0].id)
        assert (late.body, late.headers, late.session_id, late.state) == (b"", {}, None, DeliveryState.SETTLED)
        assert (late.body_deletion, late.runs[0].reason) == (BodyDeletion.ERASURE, "its session was erased")
        assert all(row.body for row in rows if row is not late)
        assert set(ledger.scalars(select(session_table.c.session_id))) == {"S2"}
        assert not list(check_invariants(ledger))


def test_a_duplicate_of_an_event_that_was_erased_gets_no_further_run(
    resources_with: MakeResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_erasure, "NOBODY_FOR", 0.0)
    resources = resources_with(note_start)
    body = said("SESSION_STARTED")
    given = replace(batch(), deliveries=(replace(delivery(body), session_id="S1"),))
    process_batch(resources, given)
    before = outcomes(resources, body)
    remember_erased(resources)

    process_batch(resources, given)

    assert outcomes(resources, body) == before
    assert state(resources, body) is DeliveryState.SETTLED


def test_an_event_whose_worker_died_before_its_session_was_erased_ends(
    resources_with: MakeResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_erasure, "NOBODY_FOR", 0.0)
    resources = resources_with(note_start)
    body = said("SESSION_STARTED")
    given = replace(batch(), deliveries=(replace(delivery(body), session_id="S1"),))
    monkeypatch.setattr("workers.execution.jobs.commit_new_runs", partial(_die, commit_new_runs))
    with pytest.raises(KeyboardInterrupt):
        process_batch(resources, given)
    monkeypatch.setattr("workers.execution.jobs.commit_new_runs", commit_new_runs)
    assert state(resources, body) is DeliveryState.RUNNING
    remember_erased(resources)

    process_batch(resources, given)

    assert state(resources, body) is DeliveryState.SETTLED


def _die(commit: Callable[..., PostCommit], ledger: Connection, resources: Resources, results: Any, *more: Any) -> Any:
    """Commit what is stored with a batch, and die of what its handlers have returned."""
    if any(result.handler == "note_start" for result in results):
        raise KeyboardInterrupt
    return commit(ledger, resources, results, *more)


def test_what_is_erased_while_its_handlers_run_tells_nobody_and_names_nobody(resources_with: MakeResources) -> None:
    def erase_it() -> None:
        targets = find_targets(resources.engine, session_ids={"S1"})
        erase(resources.engine, Erasure(), targets)

    @on(SessionStarted)
    def tell(event: SessionStarted, ctx: Context) -> None:
        ctx.push("driver-7", title="Hello", body="You are here", collapse_key="a", session_id=event.session_id)
        erase_it()

    @on(SessionComplete)
    def fail(event: SessionComplete, _ctx: Context) -> None:
        erase_it()
        raise ValueError(event.session_id)

    resources = resources_with(tell, fail)
    for name, handler in (("SESSION_STARTED", "tell"), ("SESSION_COMPLETE", "fail")):
        arrived = replace(delivery(said(name)), session_id="S1")

        process_batch(resources, replace(batch(), deliveries=(arrived,)))

        with resources.engine.begin() as ledger:
            (row,) = deliveries.get_many(ledger, [arrived.id], bodies=True)
            (run,) = [each for each in row.runs if each.handler == handler]
            assert (row.state, row.body, run.outcome, run.error) == (DeliveryState.SETTLED, b"", Outcome.MOOT, None)
            assert not list(ledger.scalars(select(push_table.c.id)))
            assert not list(check_invariants(ledger))


def test_poison_of_an_erased_session_has_no_content_and_nobody_is_to_run_it_again(
    resources_with: MakeResources,
) -> None:
    resources = resources_with(note_start)
    remember_erased(resources)
    poison, other = (
        replace(delivery(said("SESSION_STARTED", name)), session_id=name, headers={"a": "b"}) for name in ("S1", "S2")
    )

    dead_letter_poison(resources, replace(batch(poison=True), deliveries=(poison, other)))

    with resources.engine.begin() as ledger:
        found = {each.id: each for each in deliveries.get_many(ledger, [poison.id, other.id], bodies=True)}
        row, left = found[poison.id], found[other.id]
        assert (row.body, row.headers, row.session_id, row.state) == (b"", {}, None, DeliveryState.SETTLED)
        assert (row.body_deletion, row.runs[0].outcome) == (BodyDeletion.ERASURE, Outcome.IGNORED)
        assert (left.body, left.state) == (other.body, DeliveryState.DEAD)
        assert not list(check_invariants(ledger))
