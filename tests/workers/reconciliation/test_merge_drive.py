"""What the Drive API returns is merged into the records until they are as the sessions really were."""

from datetime import timedelta
from random import Random

from ingest.simulator.drive.drive_faults import parse_rates
from ingest.simulator.drive.state import SessionState, state_from_scenario
from tests.own_time import now
from tests.workers.reconciliation.clocks import Clock, SimulatedDrive, events_of
from workers.ledger import charging_keys, session_polls, sessions
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.tables.reconciliation_tables import PollOutcome
from workers.privacy.erasure import Erasure, erase, order_of, remember, salt_of
from workers.privacy.erasure_targets import find_targets


def test_with_a_third_of_the_events_dropped_every_record_ends_as_the_session_really_was(
    clock_on, database_url: str, simulator: SimulatedDrive
):
    clock = clock_on(database_url, history_every="1ms", history_span="1d", reconcile_longest="1ms")
    random = Random(7)
    stories = [
        events_of(f"S{number}", f"driver-{number % 10}", random.choice(["session", "stop-failed", "cdr"]))
        for number in range(80)
    ]
    simulator.state.apply(filter(None, map(state_from_scenario, stories)))
    arrived = [[each for each in told if each.kind == "events" and random.random() > 1 / 3] for told in stories]
    assert [] in arrived
    for tellings in arrived:
        clock.receive(tellings)
    before = clock.comparison(simulator.state)
    assert before.unknown
    assert before.equal < 50
    simulator.faults.rates = parse_rates("500:0.1,429:0.05,nonsense:0.05,lost:0.1")
    for _ in range(60):
        clock.turn()
        if clock.comparison(simulator.state).equal == 80:
            break
    after = clock.comparison(simulator.state)
    assert after.differences == {}
    assert after.healed > 20


def test_the_driver_is_the_user_of_the_request_whatever_id_the_response_has(clock: Clock, simulator: SimulatedDrive):
    clock.receive(events_of("S1", "user-1", begins_at=now())[:1])
    clock.let_pass(timedelta(minutes=31))
    simulator.state.apply([SessionState("S1", "user-1", "STARTED", now())])
    document_of = simulator.state.document_of
    simulator.state.document_of = lambda truth: {**document_of(truth), "userId": "zz-internal-4711"}
    clock.polling.run()
    with clock.resources.engine.begin() as ledger:
        session = sessions.get(ledger, "S1")
    assert (session.user_id, session.anomalies) == ("user-1", ())
    assert clock.poll("S1").outcome is PollOutcome.OPEN


def test_the_charging_key_of_an_open_session_is_recorded(clock: Clock, simulator: SimulatedDrive):
    simulator.state.apply([SessionState("S1", "user-1", "STARTED", now())])
    clock.receive(events_of("S1", "user-1", begins_at=now())[:1])
    clock.let_pass(timedelta(minutes=31))
    clock.polling.run()
    with clock.resources.engine.begin() as ledger:
        ((session_id, key),) = charging_keys.keys_of_sessions(ledger, ["S1"])
    assert (session_id, bool(key)) == ("S1", True)


def test_what_is_erased_while_the_drive_api_is_asked_stays_erased(clock: Clock, simulator: SimulatedDrive):
    clock.receive(events_of("S1", "user-1", begins_at=now())[:1])
    clock.let_pass(timedelta(minutes=31))
    simulator.state.apply([SessionState("S1", "user-1", "STARTED", now())])
    document_of, engine = simulator.state.document_of, clock.resources.engine

    def erase_and_respond(truth: SessionState) -> dict[str, object]:
        targets, erasure = find_targets(engine, session_ids={"S1"}), Erasure()
        order = order_of(erasure, salt_of(engine), targets)
        run_in_transaction(engine, lambda ledger: remember(ledger, order))
        assert erase(engine, erasure, targets)["sessions"] == 1
        return document_of(truth)

    simulator.state.document_of = erase_and_respond
    clock.polling.run()
    with engine.begin() as ledger:
        assert sessions.get(ledger, "S1") is None
        assert not session_polls.states(ledger, ["S1"])
        assert not charging_keys.keys_of_sessions(ledger, ["S1"])
