"""A new session is read once for its operator, which a fee warning then names."""

from datetime import timedelta

import pytest

from handlers.fee_warning import warn_the_driver
from handlers.kit.testing import context_for
from ingest.events import SessionFeeIncurring
from ingest.simulator.drive.state import SessionState
from tests.own_time import now
from tests.workers.reconciliation.clocks import Clock, SimulatedDrive, SkippingClock, events_of, fail_for
from workers.drive.drive_errors import DriveUnavailable, NotFound
from workers.ledger import sessions
from workers.reconciliation.operators import ReadOperators
from workers.resilience.token_bucket import TokenBucket


def reader_of(clock: Clock, *, per_minute: int = 10**6) -> ReadOperators:
    drive = SkippingClock().client(clock.resources.settings)
    return ReadOperators(clock.resources, drive, TokenBucket(per_minute))


def start(clock: Clock, simulator: SimulatedDrive, *session_ids: str) -> None:
    for session_id in session_ids:
        simulator.state.apply([SessionState(session_id, "user-1", "STARTED", now())])
        clock.receive(events_of(session_id, "user-1", begins_at=now())[:1])


def operator_of(clock: Clock, session_id: str = "S1") -> str | None:
    with clock.resources.engine.begin() as ledger:
        return sessions.get(ledger, session_id).operator


def test_a_warning_names_the_operator_of_the_location_before_that_of_the_session(clock_on, tmp_path, simulator):
    clock = clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", drive_session_operator="/sessionStatus")
    start(clock, simulator, "S1")
    reader_of(clock).run()
    name = simulator.state.locations[simulator.state.document_of(simulator.state.sessions["S1"])["locationId"]]
    assert operator_of(clock) == name
    with clock.resources.engine.begin() as ledger:
        record = sessions.get(ledger, "S1")
    event = SessionFeeIncurring(session_id="S1", at=now(), fee_will_apply_from=now() + timedelta(minutes=10))
    ctx = context_for(event, sessions=[record])
    warn_the_driver(event, ctx)
    assert f"at {name} before" in ctx.writes.pushes[0].body


def test_without_a_location_that_is_found_the_name_is_the_sessions(clock_on, tmp_path, simulator, monkeypatch):
    fail_for(monkeypatch, "location", *simulator.state.locations, failure=NotFound)
    clock = clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", drive_session_operator="/sessionStatus")
    start(clock, simulator, "S1")
    reader_of(clock).run()
    assert operator_of(clock) == "STARTED"


def test_each_session_and_each_location_is_read_once(clock: Clock, simulator: SimulatedDrive):
    reader = reader_of(clock)
    names = [f"S{number}" for number in range(15)]
    start(clock, simulator, *names)
    reader.run()
    locations = {simulator.state.document_of(simulator.state.sessions[name])["locationId"] for name in names}
    assert simulator.calls == 15 + len(locations)
    reader.run()
    start(clock, simulator, *names)
    reader.run()
    assert simulator.calls == 15 + len(locations)
    assert None not in {operator_of(clock, name) for name in names}


def test_sessions_beyond_the_budget_are_read_later_and_one_that_is_not_known_stops_none(clock, simulator):
    reader = reader_of(clock, per_minute=60)  # a few at once
    start(clock, simulator, *(f"S{number}" for number in range(9)))
    clock.receive(events_of("S9", "user-1", begins_at=now())[:1])
    for _ in range(10):
        reader.run()
        reader._budget.consume(-60)  # noqa: SLF001 - a minute passes
    assert None not in {operator_of(clock, f"S{number}") for number in range(9)}
    assert operator_of(clock, "S9") is None


def test_after_an_outage_of_the_drive_api_the_session_is_read(clock: Clock, simulator: SimulatedDrive, monkeypatch):
    reader = reader_of(clock)
    start(clock, simulator, "S1")
    with monkeypatch.context() as outage:
        fail_for(outage, "session", "S1")
        with pytest.raises(DriveUnavailable):
            reader.run()
    reader.run()
    assert operator_of(clock) is not None


def test_a_session_that_is_over_is_not_read(clock: Clock, simulator: SimulatedDrive):
    clock.receive(events_of("S1", "user-1", begins_at=now()))
    reader_of(clock).run()
    assert simulator.calls == 0
