"""Batches and runs, from a read batch to what stands in the ledger, on SQLite and on PostgreSQL."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from rq.timeouts import JobTimeoutException
from sqlalchemy import Column, MetaData, String, Table, bindparam, create_engine, delete, insert, select, text, update

from handlers import Context, GiveUp, Moot, RetryLater, on, record
from handlers.kit.session import Session
from handlers.kit.subscriptions import MARK
from handlers.session_records import session_record
from ingest.config.settings import load_settings
from ingest.events import ChargingRecord, Event, SessionComplete, SessionFeeIncurring, SessionStarted, UnknownEvent
from ingest.queue.batch import Batch, Delivery, new_batch_id
from ingest.queue.queues import queue
from ingest.relay.publisher import JOB_TIMEOUT
from ingest.wire.envelope import Envelope, Kind
from workers.clock.clock import Clock
from workers.clock.push_sender import send_due
from workers.execution import jobs
from workers.execution.commit import run_post_commit
from workers.execution.dead_letters import publish_dead_letters
from workers.execution.enqueue import enqueue_due_runs
from workers.execution.jobs import dead_letter_poison, execute_runs, process_batch
from workers.ledger import deliveries, pushes, run_schedule, runs, sessions
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import RETRY_FOR, LedgerUnavailable, run_in_transaction
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.runs import RunRecord
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome, PushState
from workers.ledger.tables import metadata
from workers.ledger.tables.core import sessions as session_table
from workers.plugins import Plugins
from workers.push.registry import open_channels
from workers.resilience.guarded_call import HandlerTimedOut
from workers.resilience.hard_timeout import CLEANUP_GRACE
from workers.resources import Resources

START = datetime(2026, 5, 4, 10, 0, tzinfo=UTC)
NUMBERS = itertools.count()

notes = Table("notes", MetaData(), Column("text", String, primary_key=True))


@pytest.fixture
def equip(database_url: str, valkey: redis.Redis, tmp_path: Path) -> Callable[..., Resources]:
    """Build the equipment of a worker with the given handlers, beside the record of sessions."""
    metadata.create_all(create_ledger_engine(database_url))
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


def work(equipment: Resources, given: Batch) -> None:
    run_post_commit(equipment, process_batch(equipment, given))


def work_queued(equipment: Resources) -> int:
    """Make the runs whose jobs lie on the queues, as a worker would."""
    made = 0
    for name in ("urgent", "sessions", "cdrs", "other"):
        for job in queue(name, equipment.connection).jobs:
            handler, attempts = job.args
            run_post_commit(equipment, execute_runs(equipment, handler, attempts, job.id))
            job.delete()
            made += len(attempts)
    return made


def outcomes(equipment: Resources, body: bytes) -> dict[str, Outcome]:
    with equipment.engine.connect() as ledger:
        row = deliveries.get(ledger, delivery(body).id)
    assert row is not None
    return {run.handler: run.outcome for run in row.runs}


def state(equipment: Resources, body: bytes) -> DeliveryState:
    with equipment.engine.connect() as ledger:
        row = deliveries.get(ledger, delivery(body).id)
    assert row is not None
    return row.state


def record_of(equipment: Resources, session_id: str = "S1") -> Any:
    with equipment.engine.connect() as ledger:
        return sessions.get(ledger, session_id)


def written(equipment: Resources) -> list[str]:
    with equipment.engine.connect() as ledger:
        return sorted(ledger.scalars(select(notes.c.text)))


@on(SessionStarted)
def note_start(event: SessionStarted, ctx: Context) -> None:
    ctx.write(insert(notes).values(text=f"started {event.session_id}"))


def test_a_batch_becomes_a_record_whatever_its_order(equip: Callable[..., Resources]) -> None:
    equipment = equip()
    bodies = [said("SESSION_STARTED"), said("SESSION_STOPPED", minutes=30), said("SESSION_COMPLETE", minutes=31)]
    random.Random(7).shuffle(bodies)
    for body in bodies:
        work(equipment, batch(body))
    session = record_of(equipment)
    assert (session.status, session.user_id, session.started_at) == ("COMPLETE", "driver-1", START)
    assert {state(equipment, body) for body in bodies} == {DeliveryState.SETTLED}


def test_a_batch_worked_twice_has_its_effects_once(equip: Callable[..., Resources]) -> None:
    equipment = equip(note_start)
    given = batch(said("SESSION_STARTED"))
    work(equipment, given)
    work(equipment, given)
    assert written(equipment) == ["started S1"]


def test_a_worker_that_died_between_records_and_outcomes_is_made_up_for(equip: Callable[..., Resources]) -> None:
    equipment = equip(note_start)
    given = batch(said("SESSION_STARTED"))
    with equipment.engine.begin() as ledger:
        deliveries.store(ledger, given.deliveries, {given.deliveries[0].id: (DeliveryState.RUNNING, None)})
    work(equipment, given)
    assert written(equipment) == ["started S1"]
    assert state(equipment, given.deliveries[0].body or b"") is DeliveryState.SETTLED


def test_records_come_before_handlers(equip: Callable[..., Resources]) -> None:
    seen: list[str | None] = []

    @on(SessionStarted)
    def look(event: SessionStarted, ctx: Context) -> None:
        seen.append(ctx.session(event.session_id).status)

    work(equip(look), batch(said("SESSION_STARTED"), said("SESSION_COMPLETE", minutes=5)))
    assert seen == ["COMPLETE"]


def test_no_transaction_is_open_while_a_handler_runs(equip: Callable[..., Resources], database_url: str) -> None:
    @on(SessionStarted)
    def write_elsewhere(event: SessionStarted, ctx: Context) -> None:
        other = create_engine(database_url)
        with other.begin() as connection:  # on SQLite this waits for whoever holds the file
            connection.execute(insert(notes).values(text=event.session_id))
        other.dispose()

    equipment = equip(write_elsewhere)
    work(equipment, batch(said("SESSION_STARTED")))
    assert outcomes(equipment, said("SESSION_STARTED"))["write_elsewhere"] is Outcome.DONE


def test_a_failing_handler_harms_only_itself(equip: Callable[..., Resources]) -> None:
    @on(SessionStarted)
    def broken(event: SessionStarted, ctx: Context) -> None:
        ctx.write(insert(notes).values(text="must not stand"))
        raise ZeroDivisionError("by design")

    equipment = equip(broken, note_start)
    good, other = said("SESSION_STARTED"), said("SESSION_COMPLETE", "S2")
    work(equipment, batch(good, other))
    assert written(equipment) == ["started S1"]
    assert outcomes(equipment, good) == {
        "session_record": Outcome.DONE,
        "note_start": Outcome.DONE,
        "broken": Outcome.AGAIN,
    }
    assert (state(equipment, good), state(equipment, other)) == (DeliveryState.RETRYING, DeliveryState.SETTLED)


def test_a_run_that_failed_is_tried_again_in_a_job_of_its_own(equip: Callable[..., Resources]) -> None:
    attempts: list[int] = []

    @on(SessionStarted)
    def third_time_lucky(event: SessionStarted, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError("not yet")

    equipment = equip(third_time_lucky, retry_first=timedelta(milliseconds=1))
    work(equipment, batch(said("SESSION_STARTED")))
    while len(attempts) < 3:
        enqueue_due_runs(equipment)
        assert all(len(job.args[1]) == 1 for job in queue("sessions", equipment.connection).jobs)
        work_queued(equipment)
    assert attempts == [1, 2, 3]
    assert state(equipment, said("SESSION_STARTED")) is DeliveryState.SETTLED


def test_a_run_that_fails_too_often_is_a_dead_letter_with_its_traceback(equip: Callable[..., Resources]) -> None:
    @on(SessionStarted)
    def hopeless(event: SessionStarted, ctx: Context) -> None:
        raise ZeroDivisionError("by design")

    equipment = equip(hopeless, retry_attempts=1)
    work(equipment, batch(said("SESSION_STARTED")))
    assert state(equipment, said("SESSION_STARTED")) is DeliveryState.DEAD
    registry = queue("sessions", equipment.connection).failed_job_registry
    (job_id,) = registry.get_job_ids()
    job = queue("sessions", equipment.connection).fetch_job(job_id)
    assert job is not None
    result = job.latest_result()
    assert result is not None
    assert "ZeroDivisionError: by design" in str(result.exc_string)
    assert "hopeless" in str(job.description)
    assert publish_dead_letters(equipment) == 0


def test_a_dead_letter_put_back_on_its_queue_is_run_once_more(equip: Callable[..., Resources]) -> None:
    mended = False

    @on(SessionStarted)
    def mendable(event: SessionStarted, ctx: Context) -> None:
        if not mended:
            raise GiveUp("the table is missing")

    equipment = equip(mendable)
    work(equipment, batch(said("SESSION_STARTED")))
    registry = queue("sessions", equipment.connection).failed_job_registry
    mended = True
    registry.requeue(registry.get_job_ids()[0])
    assert work_queued(equipment) == 1
    assert outcomes(equipment, said("SESSION_STARTED"))["mendable"] is Outcome.DONE


def test_a_dead_letter_put_back_that_dies_again_is_a_dead_letter_again(equip: Callable[..., Resources]) -> None:
    @on(SessionStarted)
    def hopeless(event: SessionStarted, ctx: Context) -> None:
        raise GiveUp("the table is still missing")

    equipment = equip(hopeless)
    work(equipment, batch(said("SESSION_STARTED")))
    registry = queue("sessions", equipment.connection).failed_job_registry
    (first,) = registry.get_job_ids()
    registry.requeue(first)
    assert work_queued(equipment) == 1
    (second,) = registry.get_job_ids()
    assert second != first
    assert publish_dead_letters(equipment) == 0


def test_a_failing_write_is_its_own_runs_failure(equip: Callable[..., Resources]) -> None:
    @on(SessionComplete)
    def write_twice(event: SessionComplete, ctx: Context) -> None:
        ctx.write(insert(notes).values(text="twice"))
        ctx.write(insert(notes).values(text="twice"))

    equipment = equip(note_start, write_twice)
    work(equipment, batch(said("SESSION_STARTED"), said("SESSION_COMPLETE")))
    assert written(equipment) == ["started S1"]
    assert outcomes(equipment, said("SESSION_COMPLETE"))["write_twice"] is Outcome.AGAIN


def test_one_failing_write_of_many_in_a_batch_takes_none_of_the_others_with_it(equip: Callable[..., Resources]) -> None:
    note = insert(notes)

    @on(SessionStarted)
    def note_once(event: SessionStarted, ctx: Context) -> None:
        ctx.write(note, {"text": "the same" if event.session_id in {"S3", "S6"} else event.session_id})

    equipment = equip(note_once)
    work(equipment, batch(*(said("SESSION_STARTED", f"S{number}") for number in range(9))))
    assert written(equipment) == ["S0", "S1", "S2", "S4", "S5", "S7", "S8", "the same"]
    ended = [outcomes(equipment, said("SESSION_STARTED", f"S{number}"))["note_once"] for number in range(9)]
    assert [number for number, outcome in enumerate(ended) if outcome is Outcome.AGAIN] == [6]
    assert ended.count(Outcome.DONE) == 8


def test_what_handlers_write_with_values_is_written_in_their_order(equip: Callable[..., Resources]) -> None:
    note, strike = insert(notes), delete(notes).where(notes.c.text == bindparam("gone"))

    @on(SessionStarted)
    def note_and_strike(event: SessionStarted, ctx: Context) -> None:
        ctx.write(strike, {"gone": "noted"})
        ctx.write(note, {"text": "noted"})
        ctx.write(note, {"text": event.session_id})
        ctx.write(note.values(text=f"{event.session_id} again"))

    equipment = equip(note_and_strike)
    work(equipment, batch(*(said("SESSION_STARTED", f"S{number}") for number in range(3))))
    assert written(equipment) == ["S0", "S0 again", "S1", "S1 again", "S2", "S2 again", "noted"]


def test_an_event_that_nobody_takes_is_ignored_and_an_unreadable_one_kept(equip: Callable[..., Resources]) -> None:
    equipment = equip()
    unknown, odd = said("SESSION_ON_THE_MOON"), b'{"event": "SESSION_STARTED", "payload": 7}'
    work(equipment, batch(unknown, odd, b"\xff\x00 not JSON"))
    assert outcomes(equipment, unknown) == {WHOLE_DELIVERY: Outcome.IGNORED}
    assert state(equipment, unknown) is DeliveryState.SETTLED
    assert state(equipment, odd) is DeliveryState.UNREADABLE
    with equipment.engine.connect() as ledger:
        (row, *_) = deliveries.find(ledger, DeliveryFilters(state=DeliveryState.UNREADABLE), 10)
        assert row.reason
        kept = deliveries.get(ledger, delivery(b"\xff\x00 not JSON").id)
    assert kept is not None
    assert kept.body == b"\xff\x00 not JSON"


def test_handlers_may_take_unknown_events_and_cdrs(equip: Callable[..., Resources]) -> None:
    seen: list[str] = []

    @on(UnknownEvent, ChargingRecord)
    def collect(event: Event, ctx: Context) -> None:
        seen.append(type(event).__name__)

    cdr = Batch(new_batch_id(), "inbox-1", "cdrs", (delivery(b'{"requestId": "r1", "cost": 1.10}', Kind.CDRS),))
    equipment = equip(collect)
    work(equipment, batch(said("SESSION_ON_THE_MOON")))
    work(equipment, cdr)
    assert seen == ["UnknownEvent", "ChargingRecord"]


def test_async_handlers_of_a_batch_run_together(equip: Callable[..., Resources]) -> None:
    meeting: set[str] = set()
    together = asyncio.Event()

    @on(SessionStarted)
    async def meet(event: SessionStarted, ctx: Context) -> None:
        meeting.add(event.session_id)
        if len(meeting) == 3:
            together.set()
        await together.wait()
        ctx.write(insert(notes).values(text=event.session_id))

    equipment = equip(meet)
    work(equipment, batch(*(said("SESSION_STARTED", f"S{number}") for number in range(3))))
    assert written(equipment) == ["S0", "S1", "S2"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_handler_that_hangs_is_cut_off(equip: Callable[..., Resources], *, asynchronous: bool) -> None:
    @on(SessionStarted, name="hang")
    def hang(event: SessionStarted, ctx: Context) -> None:
        while True:
            pass

    @on(SessionStarted, name="hang")
    async def hang_politely(event: SessionStarted, ctx: Context) -> None:
        await asyncio.Event().wait()

    equipment = equip(hang_politely if asynchronous else hang, note_start, handler_timeout=timedelta(milliseconds=50))
    work(equipment, batch(said("SESSION_STARTED")))
    assert outcomes(equipment, said("SESSION_STARTED"))["hang"] is Outcome.AGAIN
    assert written(equipment) == ["started S1"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_handlers_that_are_merely_slow_are_no_workers_death(
    equip: Callable[..., Resources], monkeypatch: pytest.MonkeyPatch, *, asynchronous: bool
) -> None:
    called: list[str] = []

    @on(SessionStarted, name="slow")
    def slow(event: SessionStarted, ctx: Context) -> None:
        called.append(event.session_id)
        if len(called) == 10:
            time.sleep(jobs.START_BUDGET.total_seconds())
        ctx.write(insert(notes).values(text=event.session_id))

    @on(SessionStarted, name="slow")
    async def slow_together(event: SessionStarted, ctx: Context) -> None:
        slow(event, ctx)

    monkeypatch.setattr(jobs, "START_BUDGET", timedelta(seconds=0.5))
    equipment = equip(slow_together if asynchronous else slow)
    ids = [f"S{number:02}" for number in range(30)]
    work(equipment, batch(*(said("SESSION_STARTED", session_id) for session_id in ids)))
    begun = len(called)
    assert begun < len(ids)
    assert written(equipment) == sorted(called)
    assert work_queued(equipment) == len(ids) - begun
    assert written(equipment) == sorted(called) == ids


def test_the_job_of_a_batch_lasts_longer_than_what_it_begins() -> None:
    waiting_for_the_ledger = timedelta(seconds=2 * RETRY_FOR)
    assert jobs.START_BUDGET + CLEANUP_GRACE + waiting_for_the_ledger < JOB_TIMEOUT


def test_a_record_that_hangs_is_cut_off(equip: Callable[..., Resources]) -> None:
    @record(SessionStarted)
    def hang(session: Session, event: SessionStarted) -> Session:
        while event.session_id == "S1":
            pass
        return session

    equipment = equip(hang, note_start, handler_timeout=timedelta(milliseconds=50))
    work(equipment, batch(said("SESSION_STARTED"), said("SESSION_STARTED", "S2")))
    assert outcomes(equipment, said("SESSION_STARTED")) == {
        "session_record": Outcome.DONE,
        "hang": Outcome.AGAIN,
        "note_start": Outcome.DONE,
    }
    assert outcomes(equipment, said("SESSION_STARTED", "S2"))["hang"] is Outcome.DONE


def test_records_that_are_slow_wait_for_jobs_of_their_own(
    equip: Callable[..., Resources], monkeypatch: pytest.MonkeyPatch
) -> None:
    equipment = equip()
    monkeypatch.setattr(jobs, "START_BUDGET", timedelta())
    work(equipment, batch(said("SESSION_STARTED")))
    assert outcomes(equipment, said("SESSION_STARTED")) == {"session_record": Outcome.WAITING}
    assert work_queued(equipment) == 1
    assert record_of(equipment).started_at == START
    assert state(equipment, said("SESSION_STARTED")) is DeliveryState.SETTLED


def test_the_timeout_of_the_job_ends_it_and_not_only_the_asynchronous_handler_in_its_hands(
    equip: Callable[..., Resources],
) -> None:
    @on(SessionStarted)
    async def interrupted(event: SessionStarted, ctx: Context) -> None:
        raise JobTimeoutException("Task exceeded maximum timeout value")

    with pytest.raises(JobTimeoutException):
        work(equip(interrupted), batch(said("SESSION_STARTED")))


class PanicError(BaseException):
    """What extensions in Rust raise: no Exception."""


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), PanicError("broken"), asyncio.CancelledError()])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_handler_that_raises_more_than_an_error_does_not_take_the_worker_along(
    equip: Callable[..., Resources], raised: BaseException, *, asynchronous: bool
) -> None:
    @on(SessionStarted, name="leave")
    def leave(event: SessionStarted, ctx: Context) -> None:
        raise raised

    @on(SessionStarted, name="leave")
    async def leave_later(event: SessionStarted, ctx: Context) -> None:
        raise raised

    equipment = equip(leave_later if asynchronous else leave, note_start)
    work(equipment, batch(said("SESSION_STARTED")))
    assert outcomes(equipment, said("SESSION_STARTED"))["leave"] is Outcome.AGAIN
    assert written(equipment) == ["started S1"]


def test_a_handler_that_swallows_its_timeout_is_cut_off_again(equip: Callable[..., Resources]) -> None:
    cut_off: list[str] = []

    @on(SessionStarted)
    def stubborn(event: SessionStarted, ctx: Context) -> None:
        while len(cut_off) < 2:
            try:
                while True:
                    pass
            except HandlerTimedOut as timeout:
                cut_off.append(str(timeout))

    work(equip(stubborn, handler_timeout=timedelta(milliseconds=30)), batch(said("SESSION_STARTED")))
    assert len(cut_off) == 2


def test_a_database_without_our_tables_is_away_and_nobodys_death(
    equip: Callable[..., Resources], monkeypatch: pytest.MonkeyPatch
) -> None:
    equipment = equip()
    with equipment.engine.begin() as ledger:
        ledger.execute(text("ALTER TABLE sessions RENAME TO elsewhere"))
    monkeypatch.setattr(jobs, "run_in_transaction", partial(run_in_transaction, retry_for=0.1))
    with pytest.raises(LedgerUnavailable):
        process_batch(equipment, batch(said("SESSION_STARTED")))
    with equipment.engine.begin() as ledger:
        ledger.execute(text("ALTER TABLE elsewhere RENAME TO sessions"))
    work(equipment, batch(said("SESSION_STARTED")))
    assert state(equipment, said("SESSION_STARTED")) is DeliveryState.SETTLED


@on(SessionFeeIncurring, queue="urgent")
def warn(event: SessionFeeIncurring, ctx: Context) -> None:
    session = ctx.session(event.session_id, until=event.fee_will_apply_from)
    ctx.push(session.user_id, title="Fee", body="soon", collapse_key=f"fee:{event.session_id}", payload={"a": "b"})


def test_a_handler_with_a_queue_has_a_job_of_its_own(equip: Callable[..., Resources]) -> None:
    equipment = equip(warn)
    work(equipment, batch(said("SESSION_STARTED"), fee()))
    (job,) = queue("urgent", equipment.connection).jobs
    assert job.args[0] == "warn"
    assert "driver-1" not in str(job.args) + str(job.description)
    assert work_queued(equipment) == 1
    assert send_due(equipment) == 1
    with equipment.engine.connect() as ledger:
        (push,) = pushes.find(ledger)
    assert (push.state, push.user_id, push.channel) == (PushState.SENT, "driver-1", "log")


def test_a_run_that_wants_the_queue_its_batch_came_on_is_there_already(equip: Callable[..., Resources]) -> None:
    equipment = equip(warn)
    work(equipment, batch(said("SESSION_STARTED")))
    work(equipment, replace(batch(fee()), queue="urgent"))
    assert queue("urgent", equipment.connection).count == 0
    assert send_due(equipment) == 1


def test_first_attempts_of_a_handler_share_a_job(equip: Callable[..., Resources]) -> None:
    equipment = equip(warn)
    work(equipment, batch(*(fee(f"S{number}") for number in range(30))))
    (job,) = queue("urgent", equipment.connection).jobs
    assert len(job.args[1]) == 30


def test_runs_that_wait_for_a_driver_come_back_together(equip: Callable[..., Resources]) -> None:
    equipment = equip(warn)
    numbers = range(30)
    work(equipment, batch(*(fee(f"S{number}") for number in numbers)))
    work_queued(equipment)
    work(equipment, batch(*(said("SESSION_STARTED", f"S{number}") for number in numbers)))
    assert queue("urgent", equipment.connection).count == 1
    assert work_queued(equipment) == 30
    with equipment.engine.connect() as ledger:
        assert len(pushes.find(ledger)) == 30


def test_a_warning_waits_for_its_driver_and_goes_as_soon_as_one_is_known(equip: Callable[..., Resources]) -> None:
    equipment = equip(warn)
    warning = fee()
    work(equipment, batch(warning))
    work_queued(equipment)
    assert outcomes(equipment, warning)["warn"] is Outcome.AGAIN
    work(equipment, batch(said("SESSION_STARTED")))  # the news make the run due, and offer it
    assert work_queued(equipment) == 1
    assert outcomes(equipment, warning)["warn"] is Outcome.DONE


def test_a_run_whose_driver_became_known_while_it_was_made_waits_for_no_further_news(
    equip: Callable[..., Resources],
) -> None:
    @on(SessionFeeIncurring)
    def look_too_early(event: SessionFeeIncurring, ctx: Context) -> None:
        try:
            ctx.session(event.session_id)
        finally:
            if ctx.attempt == 1:  # by a machine whose clock is behind; the run is not there yet, so it wakes nobody
                work(equipment, batch(said("SESSION_STARTED")))
                with equipment.engine.begin() as ledger:
                    ledger.execute(update(session_table).values(updated_at=START))

    equipment, warning = equip(look_too_early), fee()
    work(equipment, batch(warning))
    assert outcomes(equipment, warning)["look_too_early"] is Outcome.AGAIN
    assert enqueue_due_runs(equipment) == 1
    assert work_queued(equipment) == 1
    assert outcomes(equipment, warning)["look_too_early"] is Outcome.DONE


def test_a_run_whose_time_is_over_ends_moot_with_its_reason(equip: Callable[..., Resources]) -> None:
    equipment = equip(warn)
    warning = fee(in_minutes=-1)
    work(equipment, batch(warning))
    work_queued(equipment)
    with equipment.engine.connect() as ledger:
        row = deliveries.get(ledger, delivery(warning).id)
    assert row is not None
    (run,) = [run for run in row.runs if run.handler == "warn"]
    assert run.outcome is Outcome.MOOT
    assert "driver" in str(run.reason)
    assert row.state is DeliveryState.SETTLED


def test_a_run_can_say_that_it_is_moot_or_wants_to_come_later(equip: Callable[..., Resources]) -> None:
    @on(SessionStarted)
    def never_mind(event: SessionStarted, ctx: Context) -> None:
        raise Moot("nothing to do")

    @on(SessionStarted)
    def tomorrow(event: SessionStarted, ctx: Context) -> None:
        raise RetryLater("the office is closed", after=timedelta(days=1))

    equipment = equip(never_mind, tomorrow)
    work(equipment, batch(said("SESSION_STARTED")))
    with equipment.engine.connect() as ledger:
        row = deliveries.get(ledger, delivery(said("SESSION_STARTED")).id)
    assert row is not None
    found = {run.handler: run for run in row.runs}
    assert found["never_mind"].outcome is Outcome.MOOT
    assert found["tomorrow"].outcome is Outcome.AGAIN
    due_at = found["tomorrow"].due_at
    assert due_at is not None
    assert due_at > datetime.now(UTC) + timedelta(hours=23)


def test_a_delivery_that_workers_died_of_gets_a_job_for_each_run(equip: Callable[..., Resources]) -> None:
    equipment = equip(note_start)
    work(equipment, batch(said("SESSION_STARTED"), isolated=True))
    assert written(equipment) == []
    assert work_queued(equipment) == 1
    assert written(equipment) == ["started S1"]


def test_poison_is_buried_without_looking_into_it(equip: Callable[..., Resources]) -> None:
    equipment = equip(note_start)
    run_post_commit(equipment, dead_letter_poison(equipment, batch(said("SESSION_STARTED"), poison=True)))
    assert outcomes(equipment, said("SESSION_STARTED")) == {WHOLE_DELIVERY: Outcome.DEAD}
    assert state(equipment, said("SESSION_STARTED")) is DeliveryState.DEAD
    assert queue("sessions", equipment.connection).failed_job_registry.count == 1
    assert record_of(equipment) is None


def test_an_attempt_is_made_by_one_worker_only(equip: Callable[..., Resources]) -> None:
    equipment = equip(note_start)
    body = said("SESSION_STARTED")
    work(equipment, batch(body, isolated=True))
    attempts = [[delivery(body).id, 1]]
    run_post_commit(equipment, execute_runs(equipment, "note_start", attempts, "job-1"))
    run_post_commit(equipment, execute_runs(equipment, "note_start", attempts, "job-2"))
    assert written(equipment) == ["started S1"]


def test_a_worker_that_comes_back_from_the_dead_has_no_effects(equip: Callable[..., Resources]) -> None:
    body = said("SESSION_STARTED")

    @on(SessionStarted)
    def slow(event: SessionStarted, ctx: Context) -> None:
        ctx.write(insert(notes).values(text=f"attempt {ctx.attempt}"))
        if ctx.attempt == 1:  # given up for dead meanwhile, and made by somebody else
            with equipment.engine.begin() as ledger:
                run_schedule.fail_crashed(
                    ledger,
                    run_schedule.running(ledger),
                    now=datetime.now(UTC),
                    deaths_allowed=3,
                    error="the worker died",
                )
            execute_runs(equipment, "slow", [[delivery(body).id, 2]], "job-2")

    equipment = equip(slow)
    work(equipment, batch(body, isolated=True))
    execute_runs(equipment, "slow", [[delivery(body).id, 1]], "job-1")
    assert written(equipment) == ["attempt 2"]
    assert outcomes(equipment, body)["slow"] is Outcome.DONE


def test_a_run_of_a_handler_that_is_gone_is_a_dead_letter(equip: Callable[..., Resources]) -> None:
    body = said("SESSION_STARTED")
    work(equip(note_start), batch(body, isolated=True))
    without = equip()
    work_queued(without)
    assert outcomes(without, body)["note_start"] is Outcome.DEAD


def test_a_record_of_what_cannot_be_read_is_a_dead_letter(equip: Callable[..., Resources]) -> None:
    equipment = equip()
    unreadable = delivery(b"read by a newer version")
    waiting = RunRecord(
        delivery_id=unreadable.id, handler="session_record", queue="sessions", outcome=Outcome.WAITING, due_at=START
    )
    with equipment.engine.begin() as ledger:
        deliveries.store(ledger, [unreadable], {unreadable.id: (DeliveryState.RUNNING, None)})
        runs.insert_runs(ledger, [waiting])
    enqueue_due_runs(equipment)
    assert work_queued(equipment) == 1
    assert outcomes(equipment, unreadable.body)["session_record"] is Outcome.DEAD


def test_the_clock_offers_a_run_again_whose_job_was_lost(equip: Callable[..., Resources]) -> None:
    equipment = equip(note_start)
    work(equipment, batch(said("SESSION_STARTED"), isolated=True))
    equipment.connection.flushall()
    clock = Clock(equipment, grace=timedelta(milliseconds=50))
    while not queue("sessions", equipment.connection).count:
        clock.tick()
    assert work_queued(equipment) == 1
    assert written(equipment) == ["started S1"]
