"""Incomplete and silent sessions are polled: each in time, with backoff, once, and apart from the others."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from ingest.queue.batch import Delivery
from ingest.simulator.drive.drive_faults import parse_rates
from ingest.simulator.drive.state import SessionState, state_from_scenario
from ingest.telemetry.steps import receipt_of
from ingest.telemetry.tracing import tracing
from tests.own_time import now
from tests.workers.reconciliation.clocks import SECOND, Clock, SimulatedDrive, events_of, fail_for
from workers.drive.drive_errors import DriveError, DriveUnavailable, NotFound, Throttled, Unauthorized
from workers.drive.models import DriveSession
from workers.ledger import deliveries, session_polls
from workers.ledger.session_polls import PollSchedule
from workers.ledger.states import DeliveryState
from workers.ledger.tables.reconciliation_tables import PollOutcome
from workers.reconciliation.poll_sessions import PollSilentSessions
from workers.resilience.token_bucket import TokenBucket


def test_a_session_is_not_polled_while_events_arrive(clock: Clock, simulator: SimulatedDrive):
    clock.receive(events_of("S1", "user-1")[:1])
    clock.polling.run()
    assert simulator.calls == 0
    clock.let_pass(timedelta(minutes=31))
    simulator.state.apply([SessionState("S1", "user-1", "STARTED", now())])
    clock.polling.run()
    assert simulator.calls == 1


def test_polls_back_off_and_a_new_clock_continues_the_schedule(clock: Clock, clock_on, simulator: SimulatedDrive):
    simulator.state.apply([SessionState("S1", "user-1", "STARTED", now())])
    clock.receive(events_of("S1", "user-1", begins_at=now())[:1])
    clock.let_pass(timedelta(minutes=31))
    waits = []
    for _ in range(6):
        clock.polling.run()
        poll = clock.poll("S1")
        waits.append(round((poll.next_at - poll.read_at) / timedelta(minutes=1)))
        Clock(clock.resources).polling.run()  # as after a restart
        clock.let_pass(poll.next_at - datetime.now(UTC) + SECOND)
    assert waits == [30, 60, 120, 240, 240, 240]
    assert simulator.calls == 6


def test_a_session_that_waits_for_its_start_is_polled_sooner(clock: Clock, simulator: SimulatedDrive):
    simulator.state.apply([SessionState("S1", "user-1", "START_FAILED")])
    clock.receive(events_of("S1", "user-1", "SESSION_START_FAILED"))
    clock.let_pass(timedelta(minutes=31))
    clock.polling.run()
    poll = clock.poll("S1")
    assert (poll.outcome, poll.status) == (PollOutcome.OPEN, "WAITING_TO_START")
    assert poll.next_at - poll.read_at == timedelta(minutes=2)


def test_a_session_that_the_drive_api_does_not_know_is_recorded_and_polled_with_backoff(clock: Clock):
    clock.receive(events_of("S1", "user-1")[:1])
    clock.let_pass(timedelta(minutes=31))
    clock.polling.run()
    assert clock.poll("S1").outcome is PollOutcome.MISSING
    clock.let_pass(timedelta(hours=1, minutes=1))
    clock.polling.run()
    assert clock.poll("S1").attempts == 2


def test_after_a_week_polling_stops_until_there_is_news(clock: Clock, simulator: SimulatedDrive):
    simulator.state.apply([SessionState("S1", "user-1", "STOP_FAILED", now())])
    clock.receive(events_of("S1", "user-1", begins_at=now())[:1])
    clock.let_pass(timedelta(minutes=31))
    clock.polling.run()
    clock.let_pass(timedelta(days=6, hours=23))
    clock.polling.run()
    clock.let_pass(timedelta(hours=5))
    for _ in range(3):
        Clock(clock.resources).polling.run()
    assert (clock.poll("S1").outcome, simulator.calls) == (PollOutcome.GIVEN_UP, 2)
    clock.receive(events_of("S1", "user-1", "SESSION_STOPPED", begins_at=now() + SECOND))
    clock.let_pass(timedelta(minutes=31))
    Clock(clock.resources).polling.run()
    assert (clock.poll("S1").outcome, simulator.calls) == (PollOutcome.OPEN, 3)


def test_a_session_completed_by_events_is_not_polled(clock: Clock, simulator: SimulatedDrive):
    clock.receive(events_of("S1", "user-1")[:1])
    clock.let_pass(timedelta(minutes=31))
    with clock.resources.engine.begin() as ledger:
        assert session_polls.schedule(ledger, now() - timedelta(days=1), now(), datetime.now(UTC)) == 1
    clock.receive(events_of("S1", "user-1"))
    clock.polling.run()
    assert (clock.poll("S1").outcome, simulator.calls) == (PollOutcome.NOT_NEEDED, 0)


def test_several_clocks_poll_each_session_once(clock_on, database_url: str, simulator: SimulatedDrive):
    one = clock_on(database_url, history_every="1000d", lease=timedelta(minutes=2))
    for number in range(30):
        one.receive(events_of(f"S{number}", "user-1")[:1])
        simulator.state.apply(filter(None, [state_from_scenario(events_of(f"S{number}", "user-1"))]))
    clocks = [Clock(one.resources, lease=timedelta(minutes=2)) for _ in range(3)]
    threads = [threading.Thread(target=each.polling.run) for each in clocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in clocks:
        each.polling.run()
    assert one.comparison(simulator.state).equal == 30
    assert simulator.calls == 30


class SlowDrive:
    """A Drive API that responds slowly, while another clock has its turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, response_takes: timedelta) -> None:
        self.time, self.response_takes = datetime.now(UTC) + timedelta(hours=1), response_takes
        self.read: list[str] = []
        self.meanwhile = lambda: None
        monkeypatch.setattr("workers.reconciliation.poll_sessions.utc_now", lambda: self.time)

    def session(self, _user_id: str, session_id: str) -> DriveSession:
        self.read.append(session_id)
        self.time += self.response_takes
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        raise NotFound("The Drive API does not know it.")


def slow_clocks(clock: Clock, drive: SlowDrive, count: int = 2) -> list[PollSilentSessions]:
    with clock.resources.engine.begin() as ledger:
        session_polls.schedule_now(ledger, now() - timedelta(days=1), now() + timedelta(days=1), drive.time)
    return [PollSilentSessions(clock.resources, drive, TokenBucket(10**6)) for _ in range(count)]


def test_a_slow_drive_api_does_not_let_a_session_be_polled_twice(
    clock_on, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    clock = clock_on(database_url, reconcile_after="30m")
    drive = SlowDrive(monkeypatch, timedelta(seconds=80))
    ids = [f"S{number}" for number in range(6)]
    for session_id in ids:
        clock.receive(events_of(session_id, "user-1")[:1])
    one, other = slow_clocks(clock, drive)
    drive.meanwhile = lambda: setattr(drive, "meanwhile", other.run)  # once the first answer's lease is renewed
    one.run()
    assert sorted(drive.read) == ids


def test_sessions_claimed_by_another_clock_are_not_released(
    clock_on, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    clock = clock_on(database_url, reconcile_after="30m")
    drive = SlowDrive(monkeypatch, timedelta(minutes=3))
    for number in range(3):
        clock.receive(events_of(f"S{number}", "user-1")[:1])
    (one,) = slow_clocks(clock, drive, 1)
    theirs: list[session_polls.DuePoll] = []

    def claim_and_break() -> None:
        with clock.resources.engine.begin() as ledger:
            schedule = PollSchedule.of(clock.resources.settings)
            theirs.extend(session_polls.claim(ledger, drive.time, timedelta(minutes=2), 50, schedule))
        raise Throttled("too many calls")

    drive.meanwhile = claim_and_break
    with pytest.raises(Throttled):
        one.run()
    assert [due.session_id for due in theirs] == ["S0", "S1", "S2"]
    assert {clock.poll(due.session_id).next_at for due in theirs} == {drive.time + timedelta(minutes=2)}


def test_a_refused_key_ends_the_turn_and_loses_nothing(clock: Clock, clock_on, simulator: SimulatedDrive, tmp_path):
    clock.receive(events_of("S1", "user-1")[:1])
    clock.let_pass(timedelta(minutes=31))
    other = clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", drive_api_key="wrong", lease=timedelta(hours=1))
    with pytest.raises(Unauthorized, match="DRIVE_API_KEY"):
        other.polling.run()
    simulator.state.apply(filter(None, [state_from_scenario(events_of("S1", "user-1"))]))
    clock.polling.run()
    assert clock.comparison(simulator.state).equal == 1


def test_while_the_drive_api_fails_a_turn_ends_at_the_second_session(clock: Clock, simulator: SimulatedDrive):
    for number in range(10):
        clock.receive(events_of(f"S{number}", "user-1")[:1])
    clock.let_pass(timedelta(minutes=31))
    simulator.faults.rates = parse_rates("500:1")
    with pytest.raises(DriveUnavailable):
        clock.polling.run()
    assert simulator.calls == 2 * 4  # two sessions, four attempts each


@pytest.mark.parametrize("failure", [DriveUnavailable, Unauthorized])
def test_a_session_that_alone_fails_is_polled_with_backoff(
    clock: Clock, simulator: SimulatedDrive, monkeypatch: pytest.MonkeyPatch, failure: type[DriveError]
):
    for number in range(3):
        clock.receive(events_of(f"S{number}", "user-1")[:1])
    clock.let_pass(timedelta(minutes=31))
    fail_for(monkeypatch, "session", "S1", failure=failure)
    with capture_logs() as logs:
        clock.polling.run()
    assert [(line["session"], line["reason"]) for line in logs if line["event"] == "session.poll_failed"] == [
        ("S1", "it always fails")
    ]
    poll = clock.poll("S1")
    assert (poll.outcome, poll.attempts, poll.reason) == (PollOutcome.FAILED, 1, "it always fails")
    assert poll.next_at - poll.read_at == timedelta(hours=1)


def test_a_clock_that_was_set_back_still_finds_silent_sessions(
    clock: Clock, simulator: SimulatedDrive, monkeypatch: pytest.MonkeyPatch
):
    ahead = timedelta(hours=1)
    monkeypatch.setattr("workers.reconciliation.poll_sessions.utc_now", lambda: datetime.now(UTC) + ahead)
    clock.polling.run()
    ahead = timedelta()
    clock.polling.run()
    clock.receive(events_of("S1", "user-1")[:1])
    ahead = timedelta(minutes=31)
    clock.polling.run()
    assert clock.poll("S1").outcome is PollOutcome.MISSING


def test_calls_are_spread_over_the_minute(clock_on, tmp_path, simulator: SimulatedDrive):
    clock = clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", per_minute=60, history_every="1000d")
    for number in range(40):
        clock.receive(events_of(f"S{number}", "user-1")[:1])
    clock.polling.run()
    clock.polling.run()
    assert 10 <= simulator.calls <= 15


def test_a_re_read_is_in_the_trace_of_the_first_delivery_of_its_session(clock: Clock, monkeypatch):
    recorded = []
    monkeypatch.setattr(tracing, "record", recorded.append)
    monkeypatch.setattr(tracing, "is_on", True)
    clock.receive([*events_of("S1", "user-1")[:1], *events_of("S2", "user-1")[:1]])  # no delivery of S2 is there
    delivery = Delivery("d1", "events", None, "S1", now(), "current", None, {}, b"{}", 1, "inbox")
    with clock.resources.engine.begin() as ledger:
        deliveries.store(ledger, [delivery], {"d1": (DeliveryState.SETTLED, None)})
    clock.let_pass(timedelta(minutes=31))
    clock.polling.run()
    clock.let_pass(timedelta(hours=1, minutes=1))
    clock.polling.run()
    first, again = recorded
    assert (first.parent, first.step.attempt, first.error) == (receipt_of("d1"), 1, "NotFound")
    assert (again.step.first, again.step.attempt) == (first.step, 2)
