"""Endpoints of the simulated Drive API, as Plugsurfing documents them."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from ingest.simulator.drive.drive_app import ROAM_TOKEN
from ingest.simulator.drive.drive_faults import DriveFault, DriveFaults
from ingest.simulator.drive.state import SessionState

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
BEYOND_ASCII = "späti/42?@example.com"


def history(drive: httpx.Client, user_id: str = "user-1", **asked: Any) -> dict[str, Any]:
    answer = drive.post(f"/drive/v1/users/{user_id}/sessions/history", json=asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ids(page: dict[str, Any]) -> list[str]:
    return [each["sessionId"] for each in page["sessions"]]


def test_a_session_is_found_by_any_id_and_under_its_own_user_only(state, drive):
    state.apply([SessionState("s/1", BEYOND_ASCII, "STARTED", NOON)])
    path = "/drive/v1/users/sp%C3%A4ti%2F42%3F%40example.com/sessions/s%2F1"
    assert drive.get(path).json()["userId"] == BEYOND_ASCII
    assert drive.get("/drive/v1/users/somebody/sessions/s%2F1").status_code == 404


def test_a_history_has_complete_sessions_unless_other_statuses_are_requested(make_session, state, drive):
    state.apply(
        [
            make_session(1),
            make_session(2, "STARTED", ended_at=None),
            make_session(3, "STOP_FAILED"),
            make_session(4, "START_FAILED"),
        ]
    )
    state.apply([SessionState("s9", "another", "COMPLETE", NOON)])
    assert ids(history(drive)) == ["s001"]
    assert ids(history(drive, sessionStatus=["STARTED", "STOP_FAILED"])) == ["s002", "s003"]
    assert ids(history(drive, sessionStatus=["WAITING_TO_START"])) == ["s004"]


def test_the_bounds_of_a_history_are_for_the_start_and_inclusive(make_session, state, drive):
    state.apply([make_session(number, ended_at=NOON + timedelta(days=1)) for number in range(5)])
    asked = {"startTime": "2026-06-01T12:01:00Z", "endTime": "2026-06-01T14:03:00+02:00"}
    assert ids(history(drive, **asked)) == ["s001", "s002", "s003"]


def test_a_history_comes_in_pages_until_there_is_no_cursor(make_session, state, drive):
    state.apply([make_session(number) for number in range(120)])
    first = history(drive)
    assert (first["count"], ids(first)[-1]) == (50, "s049")
    second = history(drive, cursor=first["cursor"], limit=60)
    third = history(drive, cursor=second["cursor"])
    assert "cursor" not in third
    assert ids(first) + ids(second) + ids(third) == [f"s{number:03}" for number in range(120)]


def test_keys_come_in_pages_of_the_requested_size(state, drive):
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while cursor or not found:
        asked = {"page_size": "90", **({"cursor": cursor} if cursor else {})}
        page = drive.get("/drive/emp/v1/charging-keys", params=asked).json()
        assert len(page["keys"]) <= 90
        found += page["keys"]
        cursor = page.get("cursor")
    assert {key["keyIdentifier"] for key in found} == set(state.keys)
    assert {key["enabled"] for key in found} == {True, False}
    fleet = drive.get("/drive/emp/v1/charging-keys", params={"fleetId": "fleet-1", "page_size": "500"}).json()["keys"]
    assert 0 < len(fleet) < len(found)
    assert {key["fleetId"] for key in fleet} == {"fleet-1"}
    assert drive.get("/drive/emp/v1/charging-keys", params={"page_size": "501"}).status_code == 400
    assert drive.get("/drive/emp/v1/charging-keys", params={"fleetId": "none"}).status_code == 404


def test_a_fleet_is_created_once_renamed_and_has_an_invitation(drive):
    fleets = "/drive/emp/v1/fleets"
    assert drive.post(fleets, json={"fleetId": "new"}).status_code == 201
    assert drive.post(fleets, json={"fleetId": "new"}).status_code == 409
    assert drive.post(fleets, json={"fleetId": "x" * 101}).status_code == 400
    assert drive.put(f"{fleets}/new/rename", json={"fleetName": "Vans"}).json()["fleetName"] == "Vans"
    assert drive.put(f"{fleets}/none/rename", json={"fleetName": "Vans"}).status_code == 404
    assert drive.get(f"{fleets}/new/invitation").json()["invitations"]


def test_balances_and_locations_can_be_read(drive, state):
    answer = drive.get("/drive/v1/users/user-1/balance")
    assert answer.text == f'{{"balance": {state.balance("user-1")}, "currency": "EUR"}}'
    assert drive.get("/drive/v1/locations/loc-001").json()["operator_display_name"]
    assert drive.get("/drive/v1/locations/none").status_code == 404


def test_roam_stores_tokens_and_distinguishes_two_whitelists(drive, state):
    authorization = {"authorization": f"Token {b64encode(ROAM_TOKEN.encode()).decode()}"}
    for uid, whitelist in (("1", "NEVER"), ("2", "ALWAYS")):
        path = f"/ocpi/2.2.1/tokens/DE/8PS/{uid}"
        assert drive.put(path, json={"whitelist": whitelist}, headers=authorization).json()["status_code"] == 1000
        assert drive.put(path, json={}, headers={"authorization": "Token x"}).status_code == 401
    assert [each["whitelist"] for each in state.tokens.values()] == ["NEVER", "ALLOWED_OFFLINE"]


def test_responses_may_be_cut_off_and_pages_lose_their_entries(make_session, state, drive_of):
    state.apply([make_session(number) for number in range(60)])
    page = history(drive_of(DriveFaults({DriveFault.LOST: 1})))
    assert (page["sessions"], page["count"]) == ([], 50)
    assert "cursor" in page
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        drive_of(DriveFaults({DriveFault.NONSENSE: 1})).get("/drive/v1/locations/loc-001").json()


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 0},
        {"limit": "1"},
        {"sessionStatus": "STARTED"},
        {"cursor": "x"},
        {"startTime": "soon"},
        ["STARTED"],
    ],
)
def test_an_invalid_history_request_is_refused(drive, body):
    assert drive.post("/drive/v1/users/user-1/sessions/history", json=body).status_code == 400


def test_a_body_that_is_not_json_is_refused(drive):
    assert drive.post("/drive/v1/users/user-1/sessions/history", content=b"{").status_code == 400
    authorization = {"authorization": f"Token {b64encode(ROAM_TOKEN.encode()).decode()}"}
    refused = drive.put("/ocpi/2.2.1/tokens/DE/8PS/1", content=b"{", headers=authorization)
    assert (refused.status_code, refused.json()["status_code"]) == (400, 2001)


def test_a_session_that_has_not_started_is_outside_all_bounds(make_session, state, drive):
    state.apply([make_session(1, "START_FAILED", started_at=None)])
    waiting = {"sessionStatus": ["WAITING_TO_START"]}
    assert ids(history(drive, **waiting)) == ["s001"]
    assert ids(history(drive, startTime="2026-06-01T12:00:00Z", **waiting)) == []


def test_the_name_of_a_fleet_is_text_of_limited_length(drive):
    for name in (7, "x" * 101):
        assert drive.put("/drive/emp/v1/fleets/fleet-1/rename", json={"fleetName": name}).status_code == 400
