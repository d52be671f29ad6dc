"""The client against a real HTTP server: retries, deadlines, the rate limit, keys and settings."""

import logging
import os
import time
from datetime import timedelta
from decimal import Decimal

import pytest
import redis
from structlog.testing import capture_logs

from ingest.errors import SettingsError
from workers.drive.client import DriveClient
from workers.drive.drive_errors import (
    DriveConflict,
    DriveError,
    DriveUnavailable,
    InvalidResponse,
    NotFound,
    RateBudgetExhausted,
    Throttled,
    Unauthorized,
)
from workers.drive.models import RoamToken, Whitelist

SESSION = {"sessionId": "s1", "sessionStatus": "STARTED"}
TOKEN = RoamToken(
    country_code="DE", party_id="ABC", uid="04A1", contract_id="C1", issuer="We", whitelist=Whitelist.ALLOWED_OFFLINE
)


def test_a_session_is_read_by_id(call, api):
    api.returns(SESSION)
    session = call("session", "a/b?c", "s1")
    assert (session.session_id, session.status, session.document) == ("s1", "STARTED", SESSION)
    (request,) = api.requests
    assert (request.method, request.path) == ("GET", "/drive/v1/users/a%2Fb%3Fc/sessions/s1")
    assert request.headers["x-api-key"] == "the-drive-key"
    assert request.headers["user-agent"].startswith("plugsurfing-webhooks/")


def test_a_history_requests_all_statuses_by_default(call, api):
    api.returns({"sessions": []})
    assert call("history", "u") == []
    assert api.requests[0].json == {"sessionStatus": ["WAITING_TO_START", "STARTED", "STOP_FAILED", "COMPLETE"]}


def test_fleets_are_created_and_renamed_and_have_invitations(call, api):
    api.returns({"fleetId": "f"}, 204, {"codes": ["x"]})
    assert call("create_fleet", "f", "Vans").document == {"fleetId": "f"}
    assert call("rename_fleet", "f", "Cars").name == "Cars"
    assert call("invitation", "f").document == {"codes": ["x"]}
    assert [(request.method, request.path) for request in api.requests] == [
        ("POST", "/drive/emp/v1/fleets"),
        ("PUT", "/drive/emp/v1/fleets/f/rename"),
        ("GET", "/drive/emp/v1/fleets/f/invitation"),
    ]
    assert api.requests[1].json == {"fleetName": "Cars"}


def test_creating_an_existing_fleet_is_a_conflict(call, api):
    api.returns(409)
    with pytest.raises(DriveConflict):
        call("create_fleet", "f")


def test_a_balance_is_exact_and_needs_the_setting_of_its_path(call, api, settings_of):
    api.returns(b'{"balance": 0.1000000000000000000001}')
    with pytest.raises(SettingsError, match="DRIVE_BALANCE_PATH"):
        call("balance", "u")
    assert api.requests == []
    settings = settings_of(drive_balance_path="/v1/users/{user_id}/balance")
    assert call("balance", "u", settings=settings) == Decimal("0.1000000000000000000001")


def test_a_location_has_its_operators_display_name(call, api):
    api.returns({"operator_display_name": "Good Charge", "operator": "Big Corp"})
    assert call("location", "l1").operator_display_name == "Good Charge"


def test_a_token_is_pushed_to_roam_without_a_key_of_the_drive_api(call, api, settings_of):
    api.returns({"status_code": 1000})
    url = f"{api.url}/ocpi/2.2.1/tokens/"
    settings = settings_of(drive_api_key=None, roam_ocpi_url=url, roam_ocpi_token="the token")
    call("push_token", TOKEN, settings=settings)
    (request,) = api.requests
    assert (request.method, request.path) == ("PUT", "/ocpi/2.2.1/tokens/DE/ABC/04A1?type=RFID")
    assert request.headers["authorization"] == "Token dGhlIHRva2Vu"
    assert "x-api-key" not in request.headers
    assert request.json["whitelist"] == "ALLOWED_OFFLINE"


def test_missing_settings_are_an_error(call, settings_of):
    with pytest.raises(SettingsError, match="DRIVE_API_KEY is not set"):
        call("session", "u", "s", settings=settings_of(drive_api_key=None))
    with pytest.raises(SettingsError, match="ROAM_OCPI_URL"):
        call("push_token", TOKEN)


@pytest.mark.parametrize("fault", [500, 502, 408, b'{"sessionId": "s1", "sess'])
def test_a_read_is_retried(call, api, fault):
    api.returns(fault, fault, fault, SESSION)
    assert call("session", "u", "s1").status == "STARTED"
    assert len(api.requests) == 4


@pytest.mark.parametrize("fault", [500, b"<html>"])
def test_a_read_fails_after_its_attempts(call, api, fault):
    api.returns(fault)
    with pytest.raises(DriveError):
        call("session", "u", "s1")
    assert len(api.requests) == 4


def test_a_history_is_retried_although_it_is_a_post(call, api):
    api.returns(500, {"sessions": []})
    assert call("history", "u") == []
    assert len(api.requests) == 2


@pytest.mark.parametrize("fault", [500, 429, 408])
@pytest.mark.parametrize("change", [("create_fleet", "f"), ("rename_fleet", "f", "n")])
def test_a_write_is_sent_once(call, api, fault, change):
    api.returns(fault)
    with pytest.raises(DriveUnavailable):
        call(*change)
    assert len(api.requests) == 1


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (403, Unauthorized), (404, NotFound)])
def test_a_permanent_error_is_not_retried(call, api, status, error):
    api.returns(status)
    with pytest.raises(error):
        call("session", "u", "s1")
    assert len(api.requests) == 1


def test_an_unknown_shape_is_not_retried(call, api):
    api.returns({"sessions": "none"})
    with pytest.raises(InvalidResponse, match="without a list of sessions"):
        call("history", "u")
    assert len(api.requests) == 1


def test_after_429_it_waits_for_the_next_minute(call, api, clock, valkey):
    api.returns(429, SESSION)
    call("session", "u", "s1", connection=valkey)
    assert clock.slept == [21]  # it is 10:56:40, and clocks differ a little


def test_after_429_no_process_calls_in_that_minute(call, api, clock, valkey, settings_of):
    api.returns(429, SESSION)
    with pytest.raises(DriveUnavailable):
        call("session", "u", "s1", connection=valkey, deadline=timedelta(seconds=5))
    assert len(api.requests) == 1
    with (
        DriveClient(settings_of(), valkey, now=clock.now, deadline=timedelta(seconds=5)) as other,
        pytest.raises(RateBudgetExhausted),
    ):
        other.session("u", "s1")
    assert len(api.requests) == 1
    clock.sleep(21)
    call("session", "u", "s1", connection=valkey, deadline=timedelta(seconds=5))
    assert len(api.requests) == 2


def test_after_429_it_waits_without_redis_too(call, api, clock):
    api.returns(429, SESSION)
    call("session", "u", "s1")
    assert clock.slept == [21]


def test_a_call_that_is_always_throttled_fails_after_its_attempts(call, api, clock):
    api.returns(429)
    with pytest.raises(Throttled):
        call("session", "u", "s1", deadline=timedelta(minutes=10))
    assert len(api.requests) == 4
    assert clock.slept == [21, 60, 60]


def test_a_call_waits_for_the_rate_limit_but_not_beyond_the_deadline(call, api, clock, valkey, settings_of):
    api.returns(SESSION)
    settings = settings_of(drive_per_minute=1)
    call("session", "u", "s1", connection=valkey, settings=settings)
    with pytest.raises(RateBudgetExhausted):
        call("session", "u", "s1", connection=valkey, settings=settings, deadline=timedelta(seconds=20))
    assert clock.slept == []
    call("session", "u", "s1", connection=valkey, settings=settings, deadline=timedelta(seconds=22))
    assert clock.slept == [21]
    assert len(api.requests) == 2


def test_two_clients_share_one_rate_limit(call, api, clock, valkey_url, settings_of):
    api.returns(SESSION)
    settings = settings_of(drive_per_minute=10)
    for _ in range(5):  # each has connections of its own
        for _ in range(4):
            with redis.Redis.from_url(valkey_url) as connection:
                call("session", "u", "s1", connection=connection, settings=settings)
    assert clock.slept == [21]  # 20 calls: 10 in each of two minutes


@pytest.mark.parametrize("slow", [{"after": 30}, {"drip": 0.06}])
def test_a_slow_response_is_cut_off(call, api, settings_of, slow):
    api.returns(api.slow(SESSION | {"padding": "x" * 500}, **slow))
    began_at = time.monotonic()
    with pytest.raises(DriveUnavailable, match="in time"):
        call("session", "u", "s1", settings=settings_of(drive_timeout="300ms", drive_attempts=1))
    assert time.monotonic() - began_at < 20


def test_an_unreachable_service_is_unavailable(call, settings_of):
    with pytest.raises(DriveUnavailable, match="cannot be reached"):
        call("session", "u", "s1", settings=settings_of(drive_api_url="http://127.0.0.1:1"))


def test_a_response_that_is_too_large_is_not_read_to_its_end(call, api, monkeypatch):
    monkeypatch.setattr("workers.drive.client.MAX_RESPONSE_BYTES", 1000)
    api.returns({"padding": "x" * 1000})
    with pytest.raises(InvalidResponse, match="more than"):
        call("session", "u", "s1")


def test_a_redirect_is_not_followed(call, api):
    api.returns(302)
    with pytest.raises(InvalidResponse, match="302"):
        call("session", "u", "s1")
    assert len(api.requests) == 1


@pytest.mark.parametrize("user_id", ["", "\ud800"])
def test_an_id_that_cannot_be_in_a_url_is_not_requested(call, api, user_id):
    with pytest.raises(NotFound):
        call("session", user_id, "s1")
    assert api.requests == []


@pytest.mark.parametrize("url", ["http://[", "https://x.example/?a=1", "http:///path"])
def test_an_invalid_url_is_an_error_that_names_the_setting(call, settings_of, url):
    with pytest.raises(SettingsError, match="DRIVE_API_URL"):
        call("session", "u", "s", settings=settings_of(drive_api_url=url))


@pytest.mark.parametrize("key", ["a\nb", "ä", "a\x00b"])
def test_an_error_about_an_invalid_key_does_not_repeat_it(call, settings_of, key):
    with pytest.raises(SettingsError, match="DRIVE_API_KEY contains characters") as refused:
        call("session", "u", "s", settings=settings_of(drive_api_key=key))
    assert key not in str(refused.value)


def test_a_key_in_a_file_is_reloaded(settings_of, api, tmp_path):
    api.returns(SESSION)
    file = tmp_path / "key"

    def write(text, age):
        file.write_text(text)
        os.utime(file, (time.time() - age, time.time() - age))

    write("the-first\n", 60)
    with DriveClient(settings_of(drive_api_key=None, drive_api_key_file=file), None) as client:
        for text, age in [("the-first", 60), ("the-sec", 0), ("the-second", 60), ("", 60), ("the\nthird", 60)]:
            write(text, age)
            client.session("u", "s1")
        file.unlink()
        client.session("u", "s1")
    keys = [request.headers["x-api-key"] for request in api.requests]
    assert keys == ["the-first"] * 2 + ["the-second"] * 4


def test_nothing_personal_is_logged(call, api, caplog, valkey):
    caplog.set_level(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # as configure_logging does
    secrets = ("the-user", "the-session", "the-drive-key", "the-body")
    for fault in (500, 429, 404, b"the-body", {"sessionStatus": "the-body", "sessionId": "the-body"}):
        api.returns(fault)
        with capture_logs() as logs, pytest.raises(DriveError) as caught:
            call("session", "the-user", "the-session", connection=valkey)
        said = f"{logs} {caplog.text} {caught.value!r} {caught.value.__cause__!r}"
        assert not [secret for secret in secrets if secret in said]


def test_a_throttled_roam_does_not_block_the_drive_api(call, api, settings_of, clock, valkey):
    settings = settings_of(roam_ocpi_url=f"{api.url}/tokens", roam_ocpi_token="the token")
    api.returns(429, SESSION)
    with pytest.raises(Throttled, match="Roam OCPI"):
        call("push_token", TOKEN, settings=settings, connection=valkey)
    assert call("session", "u", "s1", connection=valkey).session_id == "s1"
    assert clock.slept == []


def test_a_call_whose_deadline_is_over_is_not_sent(call, api):
    with pytest.raises(DriveUnavailable, match="no time left"):
        call("session", "u", "s1", deadline=timedelta(microseconds=-1))
    assert api.requests == []
