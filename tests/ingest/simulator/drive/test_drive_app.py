"""Authentication, limits, faults and control of the simulated Drive API."""

import time

from ingest.simulator.drive.drive_app import DriveCredentials
from ingest.simulator.drive.drive_faults import DriveFault, DriveFaults, RequestCounter


def test_a_wrong_key_is_unauthorized_and_a_limited_one_forbidden(drive_of):
    drive = drive_of(credentials=DriveCredentials(limited_key="limited"))
    assert drive.get("/drive/emp/v1/charging-keys", headers={"x-api-key": "x"}).status_code == 401
    assert drive.get("/drive/emp/v1/charging-keys", headers={"x-api-key": "limited"}).status_code == 403
    assert drive.get("/drive/v1/users/u/sessions/s", headers={"x-api-key": "limited"}).status_code == 404


def test_too_many_requests_are_refused(drive_of):
    drive = drive_of(counter=RequestCounter(per_minute=10**6, per_day=3))
    answers = [drive.get("/drive/v1/locations/loc-001").status_code for _ in range(5)]
    assert answers == [200, 200, 200, 429, 429]
    assert max(drive.get("/simulator/calls").json().values()) == 5


def test_faults_strike_at_their_rates_and_can_be_changed(drive_of):
    drive = drive_of(DriveFaults({DriveFault.BROKEN: 0.3, DriveFault.THROTTLED: 0.1}, seed=7))
    again = drive_of(DriveFaults({DriveFault.BROKEN: 0.3, DriveFault.THROTTLED: 0.1}, seed=7))
    statuses = [drive.get("/drive/v1/locations/loc-001").status_code for _ in range(200)]
    assert statuses == [again.get("/drive/v1/locations/loc-001").status_code for _ in range(200)]
    assert statuses.count(500) > statuses.count(429) > 0
    assert statuses.count(200) > 100
    assert drive.put("/simulator/faults", content=b"").json() == {}
    assert {drive.get("/drive/v1/locations/loc-001").status_code for _ in range(50)} == {200}


def test_sessions_can_be_pushed_and_listed_over_http(drive):
    drive.put("/simulator/sessions", content=b"")
    lines = b'{"session_id": "a", "user_id": "u", "status": "STARTED", "started_at": "2026-06-01T12:00:00Z"}\n'
    assert drive.put("/simulator/sessions", content=lines).json() == {"sessions": 1}
    (line,) = drive.get("/simulator/sessions").text.splitlines()
    assert '"session_id":"a"' in line
    assert drive.put("/simulator/sessions", content=b"{}").status_code == 400


def test_a_slow_response_is_delayed(drive_of, monkeypatch):
    monkeypatch.setattr("ingest.simulator.drive.drive_app.SLOW_RESPONSE", 0.2)
    began = time.monotonic()
    assert drive_of(DriveFaults({DriveFault.SLOW: 1})).get("/drive/v1/locations/loc-001").status_code == 200
    assert time.monotonic() - began >= 0.2


def test_unknown_faults_are_refused_and_change_nothing(drive_of):
    faults = DriveFaults({DriveFault.BROKEN: 1})
    refused = drive_of(faults).put("/simulator/faults", content=b"504")
    assert (refused.status_code, faults.rates) == (400, {DriveFault.BROKEN: 1})
    assert "Choose faults from" in refused.json()["message"]
