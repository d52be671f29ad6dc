"""The Drive API, played: what it answers, its limits, and what goes wrong with it."""

from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from ingest.simulator.drive.app import DRIVE_KEY, ROAM_TOKEN, Credentials, create_drive
from ingest.simulator.drive.faults import DriveFault, DriveFaults, RequestCounter, UnknownFault, read_rates
from ingest.simulator.drive.state import DriveState, SessionState, state_from_scenario
from ingest.simulator.scenarios import SCENARIOS, Participants, build_scenario, random_participants

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HEADERS = {"x-api-key": DRIVE_KEY}
BEYOND_ASCII = "späti/42?@example.com"


def truth(number: int, status: str = "COMPLETE", **parts: Any) -> SessionState:
    start = NOON + timedelta(minutes=number)
    return SessionState(f"s{number:03}", "user-1", status, **{"started_at": start, "ended_at": start, **parts})


@pytest.fixture
def world() -> DriveState:
    return DriveState(seed=7)


@pytest.fixture
def drive_of(world: DriveState) -> Callable[..., httpx.Client]:
    return lambda *parts, **named: TestClient(create_drive(world, *parts, **named), headers=HEADERS)


@pytest.fixture
def drive(drive_of: Callable[..., httpx.Client]) -> httpx.Client:
    return drive_of()


def history(drive: httpx.Client, user_id: str = "user-1", **asked: Any) -> dict[str, Any]:
    answer = drive.post(f"/drive/v1/users/{user_id}/sessions/history", json=asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ids(page: dict[str, Any]) -> list[str]:
    return [each["sessionId"] for each in page["sessions"]]


@pytest.mark.parametrize("about", SCENARIOS)
def test_the_world_knows_what_a_story_tells_of(about: str, world: DriveState, drive: httpx.Client) -> None:
    cast = Participants("s1", "user-1")
    told = state_from_scenario(build_scenario(about, cast, now=NOON))
    if about == "unknown":
        assert told is None
        return
    assert told is not None
    world.apply([told])
    answer = drive.get("/drive/v1/users/user-1/sessions/s1").json()
    wanted = {"fee-warning": "STARTED", "stop-failed": "STOP_FAILED"}.get(about, "COMPLETE")
    assert answer["sessionStatus"] == wanted
    assert ("completedAt" in answer) is (wanted == "COMPLETE")
    assert "startTime" in answer


def test_the_same_seed_makes_the_same_world() -> None:
    one, same, other = DriveState(seed=7), DriveState(seed=7), DriveState(seed=8)
    assert one == same
    assert one.keys != other.keys
    assert one.balance("user-1") == same.balance("user-1") != other.balance("user-1")


def test_stories_of_a_session_told_apart_are_one_truth() -> None:
    cast = random_participants(Random(7))
    world = DriveState()
    for event in ("SESSION_COMPLETE", "SESSION_STARTED", "SESSION_STOPPED"):
        told = state_from_scenario(build_scenario(event, cast, begins_at=NOON, now=NOON))
        assert told is not None
        world.apply([told])
    assert world.sessions[cast.session_id] == SessionState(cast.session_id, cast.user_id, "COMPLETE", NOON, NOON, NOON)


def test_sessions_outlive_the_process_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "drive" / "world.jsonl"
    DriveState(file=file).apply([truth(1), truth(2, "STARTED", ended_at=None)])
    with file.open("a") as torn:
        torn.write('{"session_id": "s003", "us')  # it was killed at this
    DriveState(file=file).apply([truth(2)])
    assert DriveState(file=file).sessions == {"s001": truth(1), "s002": truth(2)}


def test_a_key_that_is_wrong_or_lacks_the_permission_is_told_so(drive_of: Callable[..., httpx.Client]) -> None:
    drive = drive_of(credentials=Credentials(limited_key="limited"))
    assert drive.get("/drive/emp/v1/charging-keys", headers={"x-api-key": "x"}).status_code == 401
    assert drive.get("/drive/emp/v1/charging-keys", headers={"x-api-key": "limited"}).status_code == 403
    assert drive.get("/drive/v1/users/u/sessions/s", headers={"x-api-key": "limited"}).status_code == 404


def test_a_session_is_found_by_ids_of_any_kind_and_under_its_own_user_only(
    world: DriveState, drive: httpx.Client
) -> None:
    world.apply([SessionState("s/1", BEYOND_ASCII, "STARTED", NOON)])
    path = "/drive/v1/users/sp%C3%A4ti%2F42%3F%40example.com/sessions/s%2F1"
    assert drive.get(path).json()["userId"] == BEYOND_ASCII
    assert drive.get("/drive/v1/users/somebody/sessions/s%2F1").status_code == 404


def test_a_history_tells_complete_sessions_unless_it_is_asked_for_others(
    world: DriveState, drive: httpx.Client
) -> None:
    world.apply([truth(1), truth(2, "STARTED", ended_at=None), truth(3, "STOP_FAILED"), truth(4, "START_FAILED")])
    world.apply([SessionState("s9", "another", "COMPLETE", NOON)])
    assert ids(history(drive)) == ["s001"]
    assert ids(history(drive, sessionStatus=["STARTED", "STOP_FAILED"])) == ["s002", "s003"]
    assert ids(history(drive, sessionStatus=["WAITING_TO_START"])) == ["s004"]


def test_bounds_of_a_history_are_for_the_start_and_inclusive(world: DriveState, drive: httpx.Client) -> None:
    world.apply([truth(number, ended_at=NOON + timedelta(days=1)) for number in range(5)])
    asked = {"startTime": "2026-06-01T12:01:00Z", "endTime": "2026-06-01T14:03:00+02:00"}
    assert ids(history(drive, **asked)) == ["s001", "s002", "s003"]


def test_a_history_comes_in_pages_until_there_is_no_cursor(world: DriveState, drive: httpx.Client) -> None:
    world.apply([truth(number) for number in range(120)])
    first = history(drive)
    assert (first["count"], ids(first)[-1]) == (50, "s049")
    second = history(drive, cursor=first["cursor"], limit=60)
    third = history(drive, cursor=second["cursor"])
    assert "cursor" not in third
    assert ids(first) + ids(second) + ids(third) == [f"s{number:03}" for number in range(120)]


def test_keys_come_in_pages_of_the_size_asked_for(world: DriveState, drive: httpx.Client) -> None:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while cursor or not found:
        asked = {"page_size": "90", **({"cursor": cursor} if cursor else {})}
        page = drive.get("/drive/emp/v1/charging-keys", params=asked).json()
        assert len(page["keys"]) <= 90
        found += page["keys"]
        cursor = page.get("cursor")
    assert {key["keyIdentifier"] for key in found} == set(world.keys)
    assert {key["enabled"] for key in found} == {True, False}
    fleet = drive.get("/drive/emp/v1/charging-keys", params={"fleetId": "fleet-1", "page_size": "500"}).json()["keys"]
    assert 0 < len(fleet) < len(found)
    assert {key["fleetId"] for key in fleet} == {"fleet-1"}
    assert drive.get("/drive/emp/v1/charging-keys", params={"page_size": "501"}).status_code == 400
    assert drive.get("/drive/emp/v1/charging-keys", params={"fleetId": "none"}).status_code == 404


def test_a_fleet_is_created_once_renamed_and_invited_to(drive: httpx.Client) -> None:
    fleets = "/drive/emp/v1/fleets"
    assert drive.post(fleets, json={"fleetId": "new"}).status_code == 201
    assert drive.post(fleets, json={"fleetId": "new"}).status_code == 409
    assert drive.post(fleets, json={"fleetId": "x" * 101}).status_code == 400
    assert drive.put(f"{fleets}/new/rename", json={"fleetName": "Vans"}).json()["fleetName"] == "Vans"
    assert drive.put(f"{fleets}/none/rename", json={"fleetName": "Vans"}).status_code == 404
    assert drive.get(f"{fleets}/new/invitation").json()["invitations"]


def test_balances_and_locations_can_be_read(drive: httpx.Client, world: DriveState) -> None:
    answer = drive.get("/drive/v1/users/user-1/balance")
    assert answer.text == f'{{"balance": {world.balance("user-1")}, "currency": "EUR"}}'
    assert drive.get("/drive/v1/locations/loc-001").json()["operator_display_name"]
    assert drive.get("/drive/v1/locations/none").status_code == 404


def test_roam_takes_tokens_and_knows_two_whitelists(drive: httpx.Client, world: DriveState) -> None:
    authorization = {"authorization": f"Token {b64encode(ROAM_TOKEN.encode()).decode()}"}
    for uid, whitelist in (("1", "NEVER"), ("2", "ALWAYS")):
        path = f"/ocpi/2.2.1/tokens/DE/8PS/{uid}"
        assert drive.put(path, json={"whitelist": whitelist}, headers=authorization).json()["status_code"] == 1000
        assert drive.put(path, json={}, headers={"authorization": "Token x"}).status_code == 401
    assert [each["whitelist"] for each in world.tokens.values()] == ["NEVER", "ALLOWED_OFFLINE"]


def test_too_many_requests_are_refused(drive_of: Callable[..., httpx.Client]) -> None:
    drive = drive_of(meter=RequestCounter(per_minute=10**6, per_day=3))
    answers = [drive.get("/drive/v1/locations/loc-001").status_code for _ in range(5)]
    assert answers == [200, 200, 200, 429, 429]
    assert max(drive.get("/simulator/calls").json().values()) == 5


def test_faults_strike_as_often_as_asked_and_can_be_changed(drive_of: Callable[..., httpx.Client]) -> None:
    drive = drive_of(DriveFaults({DriveFault.BROKEN: 0.3, DriveFault.THROTTLED: 0.1}, seed=7))
    again = drive_of(DriveFaults({DriveFault.BROKEN: 0.3, DriveFault.THROTTLED: 0.1}, seed=7))
    statuses = [drive.get("/drive/v1/locations/loc-001").status_code for _ in range(200)]
    assert statuses == [again.get("/drive/v1/locations/loc-001").status_code for _ in range(200)]
    assert statuses.count(500) > statuses.count(429) > 0
    assert statuses.count(200) > 100
    assert drive.put("/simulator/faults", content=b"").json() == {}
    assert {drive.get("/drive/v1/locations/loc-001").status_code for _ in range(50)} == {200}


def test_answers_may_be_cut_off_and_pages_lost(world: DriveState, drive_of: Callable[..., httpx.Client]) -> None:
    world.apply([truth(number) for number in range(60)])
    page = history(drive_of(DriveFaults({DriveFault.LOST: 1})))
    assert (page["sessions"], page["count"]) == ([], 50)
    assert "cursor" in page
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        drive_of(DriveFaults({DriveFault.NONSENSE: 1})).get("/drive/v1/locations/loc-001").json()


def test_faults_are_written_with_or_without_their_rates() -> None:
    assert read_rates("500:0.1, slow") == {DriveFault.BROKEN: 0.1, DriveFault.SLOW: 0.2}
    with pytest.raises(UnknownFault, match="Choose faults from 429, 500"):
        read_rates("504")


def test_truths_are_taken_over_http_and_given_back(drive: httpx.Client) -> None:
    drive.put("/simulator/sessions", content=b"")
    lines = b'{"session_id": "a", "user_id": "u", "status": "STARTED", "started_at": "2026-06-01T12:00:00Z"}\n'
    assert drive.put("/simulator/sessions", content=lines).json() == {"sessions": 1}
    (line,) = drive.get("/simulator/sessions").text.splitlines()
    assert '"session_id": "a"' in line
    assert drive.put("/simulator/sessions", content=b"{}").status_code == 400
