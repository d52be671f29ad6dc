"""The state holds what really happened in sessions, whatever part of their events is sent."""

from datetime import UTC, datetime
from random import Random

import pytest

from ingest.simulator.drive.state import DriveState, SessionState, state_from_scenario
from ingest.simulator.scenarios import SCENARIOS, Participants, build_scenario, random_participants

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("about", SCENARIOS)
def test_the_state_of_a_scenario_is_what_its_events_say(about: str, state: DriveState, drive):
    cast = Participants("s1", "user-1")
    session = state_from_scenario(build_scenario(about, cast, now=NOON))
    if about == "unknown":
        assert session is None
        return
    assert session is not None
    state.apply([session])
    answer = drive.get("/drive/v1/users/user-1/sessions/s1").json()
    wanted = {"fee-warning": "STARTED", "stop-failed": "STOP_FAILED"}.get(about, "COMPLETE")
    assert answer["sessionStatus"] == wanted
    assert ("completedAt" in answer) is (wanted == "COMPLETE")
    assert "startTime" in answer


def test_the_same_seed_gives_the_same_state():
    one, same, other = DriveState(seed=7), DriveState(seed=7), DriveState(seed=8)
    assert one == same
    assert one.keys != other.keys
    assert one.balance("user-1") == same.balance("user-1") != other.balance("user-1")


def test_scenarios_of_one_session_are_merged():
    cast = random_participants(Random(7))
    state = DriveState()
    for event in ("SESSION_COMPLETE", "SESSION_STARTED", "SESSION_STOPPED"):
        session = state_from_scenario(build_scenario(event, cast, begins_at=NOON, now=NOON))
        assert session is not None
        state.apply([session])
    assert state.sessions[cast.session_id] == SessionState(cast.session_id, cast.user_id, "COMPLETE", NOON, NOON, NOON)


def test_sessions_survive_the_process_in_a_file(make_session, tmp_path):
    file = tmp_path / "drive" / "sessions.jsonl"
    DriveState(file=file).apply([make_session(1), make_session(2, "STARTED", ended_at=None)])
    with file.open("a") as torn:
        torn.write('{"session_id": "s003", "us')  # it was killed at this
    DriveState(file=file).apply([make_session(2)])
    assert DriveState(file=file).sessions == {"s001": make_session(1), "s002": make_session(2)}
