"""A handler that asks for it is called once for what the Drive API says, where no event came, and never twice."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import select

from handlers import on
from handlers.kit.subscriptions import MARK
from handlers.session_records import session_record
from ingest.events import SessionComplete, SessionEvent, SessionFeeIncurring, decode
from ingest.failpoints import Failpoint
from ingest.queue.batch import DRIVE_API, Batch, Delivery, new_batch_id
from ingest.simulator.drive.state import SessionState
from ingest.wire.envelope import Kind, delivery_id
from tests.own_time import now
from tests.workers.reconciliation.clocks import SECOND, events_of
from workers.diagnostics.session_timeline import timeline
from workers.drive.models import DriveSession
from workers.execution.jobs import execute_runs, process_batch
from workers.execution.replay import plan_replays
from workers.ledger import alert_queries, deliveries, finished_runs, sessions
from workers.ledger.healed_events import EVENT_CAME, HEALED_BEFORE, healed_id
from workers.ledger.invariants import check_invariants, missed_handlers
from workers.ledger.session_polls import PollSchedule
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import pushes, runs
from workers.plugins import Plugins
from workers.reconciliation import merge_drive, poll_sessions


def ended():
    return now() + timedelta(minutes=1)


def thank(event, ctx):
    ctx.push("ada", title="healed" if ctx.healed else "came", body=event.at.isoformat(), collapse_key=event.session_id)


def plugins(**options):
    """Return plugins with a handler that is called for healed events, and one that is not."""

    def thank_too(event, ctx):
        thank(event, ctx)

    def only_came(event, ctx):
        assert not ctx.healed

    marked = (on(SessionComplete, healed=True, **options)(thank_too), on(SessionEvent)(only_came), session_record)
    return Plugins(tuple(getattr(each, MARK) for each in marked))


@pytest.fixture
def clock(clock_on, database_url):
    return clock_on(database_url, plugins())


def arrive(clock, *about, session="S1"):
    """Let events of a session arrive in a batch; return the ids of their deliveries."""
    arrived = []
    for each in events_of(session, "ada", begins_at=now()):
        event = decode(each.kind, each.body)
        if event.name in about:
            parts = {"kind": "events", "event": event.name, "session_id": session, "received_at": now(), "headers": {}}
            parts |= {"signed_with": "current", "signed_at": None, "body": each.body, "receipts": 1, "inbox": "i"}
            arrived.append(Delivery(id=delivery_id(Kind.EVENTS, each.body), **parts))
    process_batch(clock.resources, Batch(new_batch_id(), "i", "sessions", tuple(arrived)))
    return [each.id for each in arrived]


def ends(simulator, session="S1"):
    times = {"started_at": now(), "ended_at": ended(), "completed_at": ended()}
    simulator.state.apply([SessionState(session, "ada", "COMPLETE", **times)])


def healed_delivery(session="S1"):
    return str(healed_id(SessionComplete(session_id=session, at=now())))


def run_healed(clock, session="S1"):
    execute_runs(clock.resources, "thank_too", [(healed_delivery(session), 1)], "job")


def titles(clock):
    with clock.resources.engine.connect() as conn:
        return list(conn.scalars(select(pushes.c.title)))


def outcomes(clock, id_):
    with clock.resources.engine.connect() as conn:
        found = conn.execute(select(runs.c.handler, runs.c.outcome, runs.c.reason).where(runs.c.delivery_id == id_))
        assert not list(check_invariants(conn))
        wanted = {
            each.name: [event.wire_name for event in each.events] for each in clock.resources.plugins.by_name.values()
        }
        assert not list(missed_handlers(conn, wanted, rollout=timedelta()))
        return {row.handler: (row.outcome, row.reason) for row in found}


def test_what_the_drive_api_says_is_handled_once_and_the_event_itself_no_more(clock, simulator):
    arrive(clock, "SESSION_STARTED")
    ends(simulator)
    for _ in range(2):
        clock.let_pass(timedelta(hours=1))
        clock.polling.run()
    run_healed(clock)
    assert titles(clock) == ["healed"]
    assert outcomes(clock, healed_delivery()) == {"thank_too": (Outcome.DONE, None)}
    (late,) = arrive(clock, "SESSION_COMPLETE")
    assert outcomes(clock, late) == {
        "thank_too": (Outcome.MOOT, HEALED_BEFORE),
        "only_came": (Outcome.DONE, None),
    }
    assert titles(clock) == ["healed"]


def test_the_event_is_that_of_the_drive_api_and_the_record_keeps_its_source(clock, simulator):
    arrive(clock, "SESSION_STARTED")
    ends(simulator)
    clock.polling.run()
    with clock.resources.engine.connect() as conn:
        row = deliveries.get(conn, healed_delivery())
        event = decode(Kind.EVENTS, row.body)
        assert (type(event), event.session_id, event.user_id, event.at) == (SessionComplete, "S1", "ada", ended())
        assert row.inbox == row.signed_with == DRIVE_API
        assert sessions.get(conn, "S1").statuses["COMPLETE"].sources == {"drive"}
        (_, entry) = timeline(conn, "S1", timedelta(minutes=1))
        assert (entry.delivery.id, entry.changes) == (healed_delivery(), ())
        (plan,) = plan_replays(conn, [healed_delivery()], clock.resources.plugins)
        assert plan.handlers == ()  # its only run is still to come, and no other handler is called for it
        assert alert_queries.last_event_at(conn, now() + SECOND) == now()  # that of the event that was received


def test_an_event_that_comes_before_the_healed_one_has_begun_is_handled_instead(clock_on, database_url, simulator):
    clock = clock_on(database_url, plugins(), reconcile_after="30m")
    arrive(clock, "SESSION_STARTED")
    ends(simulator)
    clock.let_pass(timedelta(minutes=31))
    clock.polling.run()
    (came,) = arrive(clock, "SESSION_COMPLETE")
    assert outcomes(clock, healed_delivery()) == {"thank_too": (Outcome.MOOT, EVENT_CAME)}
    assert outcomes(clock, came)["thank_too"] == (Outcome.DONE, None)
    run_healed(clock)
    assert titles(clock) == ["came"]


def test_nothing_is_healed_for_which_an_event_came(clock, simulator):
    arrive(clock, "SESSION_STARTED", "SESSION_STOPPED", "SESSION_COMPLETE")
    ends(simulator)
    read = DriveSession(session_id="S1", status="COMPLETE", started_at=now(), ended_at=ended(), completed_at=ended())
    schedule = PollSchedule.of(clock.resources.settings)
    with clock.resources.engine.begin() as ledger:
        merge_drive.merge_drive_sessions(ledger, "ada", [read], now(), schedule, clock.resources.plugins)
        assert sessions.get(ledger, "S1").statuses["COMPLETE"].sources == {"drive", "event"}
    assert outcomes(clock, healed_delivery()) == {}
    assert titles(clock) == ["came"]


def test_a_handler_with_a_queue_of_its_own_is_called_once_too(clock_on, database_url, simulator):
    clock = clock_on(database_url, plugins(queue="background"))
    arrive(clock, "SESSION_STARTED")
    ends(simulator)
    clock.polling.run()
    run_healed(clock)
    (late,) = arrive(clock, "SESSION_COMPLETE")
    assert outcomes(clock, late)["thank_too"] == (Outcome.WAITING, None)
    execute_runs(clock.resources, "thank_too", [(late, 1)], "job-2")
    assert outcomes(clock, late)["thank_too"] == (Outcome.MOOT, HEALED_BEFORE)
    assert titles(clock) == ["healed"]


def test_a_person_can_run_the_event_that_came_later_all_the_same(clock, simulator):
    arrive(clock, "SESSION_STARTED")
    ends(simulator)
    clock.polling.run()
    run_healed(clock)
    (late,) = arrive(clock, "SESSION_COMPLETE")
    with clock.resources.engine.begin() as ledger:
        assert finished_runs.reopen(ledger, [late], "thank_too", now()) == 1
    execute_runs(clock.resources, "thank_too", [(late, 2)], "job-2")
    assert outcomes(clock, late)["thank_too"] == (Outcome.DONE, None)


@pytest.mark.parametrize("step", [Failpoint.HEALING, Failpoint.HEALED])
def test_a_clock_that_is_killed_between_heals_once(clock, simulator, monkeypatch, step):
    arrive(clock, "SESSION_STARTED")
    ends(simulator)
    clock.resources.connection.connection_pool.disconnect()
    child = os.fork()
    if child == 0:
        for module in (merge_drive, poll_sessions):
            monkeypatch.setattr(module, "hit", lambda point: point is step and os.kill(os.getpid(), signal.SIGKILL))
        clock.polling.run()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    clock.let_pass(timedelta(hours=1))
    clock.polling.run()
    run_healed(clock)
    clock.let_pass(timedelta(hours=1))
    clock.polling.run()
    assert titles(clock) == ["healed"]


def test_of_an_event_and_a_poll_at_the_same_time_one_is_handled(clock, simulator):
    names = [f"S{number}" for number in range(12)]
    for name in names:
        arrive(clock, "SESSION_STARTED", session=name)
        ends(simulator, name)
    ready = Barrier(2)

    def poll():
        ready.wait()
        clock.polling.run()

    with ThreadPoolExecutor(1) as pool:
        polled = pool.submit(poll)
        ready.wait()
        for name in names:  # in the main thread, in which handlers have their deadline
            arrive(clock, "SESSION_COMPLETE", session=name)
        polled.result()
    for name in names:
        run_healed(clock, name)
    assert len(titles(clock)) == len(names)


def test_only_what_the_drive_api_says_can_be_asked_for():
    with pytest.raises(TypeError, match=r"@on\(…, healed=True\) needs one of SessionStarted, SessionStopped"):
        on(SessionFeeIncurring, healed=True)
