"""Both clients against a real HTTP server: pages, retries, deadlines, keys, and the pause that the API asks for."""

import asyncio
import inspect
import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from ingest.errors import SettingsError
from workers.drive.client import AsyncDriveClient, DriveClient
from workers.drive.errors import (
    DriveConflict,
    DriveError,
    DriveUnavailable,
    InvalidResponse,
    NotFound,
    RateBudgetExhausted,
    Throttled,
    TruncatedResponse,
    Unauthorized,
)
from workers.drive.models import RoamToken, Whitelist

SESSION = {"sessionId": "s1", "sessionStatus": "STARTED"}
TOKEN = RoamToken(
    country_code="DE", party_id="ABC", uid="04A1", contract_id="C1", issuer="We", whitelist=Whitelist.ALLOWED_OFFLINE
)


@pytest.fixture(params=["threads", "loop"])
def ask(request, on_stage, clock) -> Callable[..., Any]:
    """Call one method of either client, on the fake clock, and return all of its answer."""

    def in_a_thread(name, *args, connection=None, deadline=None, settings=None, **options):
        how = {"now": clock.now, "monotonic": clock.monotonic, "sleep": clock.sleep, "deadline": deadline}
        with DriveClient(settings or on_stage(), connection, **how) as client:
            answer = getattr(client, name)(*args, **options)
            return list(answer) if inspect.isgenerator(answer) else answer

    def in_a_loop(name, *args, connection=None, deadline=None, settings=None, **options):
        async def call():
            how = {"now": clock.now, "monotonic": clock.monotonic, "sleep": clock.sleep_in_a_loop, "deadline": deadline}
            async with AsyncDriveClient(settings or on_stage(), connection, **how) as client:
                answer = getattr(client, name)(*args, **options)
                return [each async for each in answer] if inspect.isasyncgen(answer) else await answer

        return asyncio.run(call())

    return in_a_thread if request.param == "threads" else in_a_loop


def test_both_clients_have_the_same_methods():
    def public(kind):
        methods = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
        return {name: [*inspect.signature(value).parameters] for name, value in methods.items()}

    assert public(DriveClient) == public(AsyncDriveClient)


def test_a_session_is_read_by_id(ask, stage):
    stage.says(SESSION)
    session = ask("session", "a/b?c", "s1")
    assert (session.session_id, session.status, session.document) == ("s1", "STARTED", SESSION)
    (asked,) = stage.asked
    assert (asked.method, asked.path) == ("GET", "/drive/v1/users/a%2Fb%3Fc/sessions/s1")
    assert asked.headers["x-api-key"] == "the-drive-key"
    assert asked.headers["user-agent"].startswith("plugsurfing-webhooks/")


def test_a_history_is_read_to_its_last_page(ask, stage):
    pages = [{"sessions": [SESSION | {"sessionId": f"s{n}"}], "cursor": f"c{n}", "count": 1} for n in (1, 2)]
    stage.says(*pages, {"sessions": [], "count": 0})
    assert [session.session_id for session in ask("history", "u", statuses=["STARTED"])] == ["s1", "s2"]
    assert [asked.json for asked in stage.asked] == [
        {"sessionStatus": ["STARTED"]},
        {"sessionStatus": ["STARTED"], "cursor": "c1"},
        {"sessionStatus": ["STARTED"], "cursor": "c2"},
    ]


def test_a_history_asks_for_all_statuses_unless_told(ask, stage):
    stage.says({"sessions": []})
    assert ask("history", "u") == []
    assert stage.asked[0].json == {"sessionStatus": ["WAITING_TO_START", "STARTED", "STOP_FAILED", "COMPLETE"]}


def test_charging_keys_are_read_to_the_last_page(ask, stage):
    stage.says({"keys": [{"keyIdentifier": "01"}], "cursor": "a b"}, {"keys": [{"keyIdentifier": "02"}]})
    keys = ask("charging_keys", "fleet 1", page_size=10)
    assert [(key.identifier, key.fleet_id) for key in keys] == [("01", "fleet 1"), ("02", "fleet 1")]
    assert stage.paths == [
        "/drive/emp/v1/charging-keys?fleetId=fleet%201&page_size=10",
        "/drive/emp/v1/charging-keys?fleetId=fleet%201&cursor=a%20b&page_size=10",
    ]


@pytest.mark.parametrize("cursors", [["c"], ["c", "d"]])
def test_a_list_that_leads_round_in_circles_ends(ask, stage, cursors):
    stage.answer = lambda _: stage.as_answer(
        {"keys": [{"keyIdentifier": "01"}], "cursor": cursors[len(stage.asked) % len(cursors)]}
    )
    with pytest.raises(InvalidResponse, match="round in circles"):
        ask("charging_keys")
    assert len(stage.asked) == len(cursors) + 1


def test_a_list_without_an_end_ends(ask, stage):
    stage.answer = lambda _: stage.as_answer({"sessions": [], "cursor": str(len(stage.asked)), "count": 0})
    with pytest.raises(InvalidResponse, match="no end"):
        ask("history", "u")
    assert len(stage.asked) == 20


def test_a_page_that_lost_its_entries_is_asked_for_again(ask, stage):
    stage.says(
        {"keys": [{"keyIdentifier": "01"}], "cursor": "a"},
        {"keys": [], "cursor": "b"},
        {"keys": [{"keyIdentifier": "02"}], "cursor": "b"},
        {"keys": [{"keyIdentifier": "03"}]},
    )
    assert [key.identifier for key in ask("charging_keys")] == ["01", "02", "03"]


@pytest.mark.parametrize("page", [{"sessions": [], "cursor": "c"}, {"sessions": [], "count": 3}])
def test_a_page_that_stays_lost_is_not_taken_for_the_end(ask, stage, page):
    stage.says(page)
    with pytest.raises(TruncatedResponse, match="lost its sessions"):
        ask("history", "u")
    assert len(stage.asked) == 4


def test_an_empty_page_at_the_end_may_count_what_came(ask, stage):
    stage.says({"sessions": [SESSION], "cursor": "c", "count": 1}, {"sessions": [], "count": 1})
    assert len(ask("history", "u")) == 1


def test_one_odd_entry_does_not_hide_the_others(ask, stage):
    stage.says({"sessions": [SESSION, {"sessionId": "odd"}, 7]})
    with capture_logs() as logs:
        assert len(ask("history", "u")) == 1
    (line,) = (each for each in logs if each["event"] == "drive.entries_skipped")
    assert line["count"] == 2


def test_a_list_of_nothing_but_odd_entries_names_the_setting(ask, stage):
    stage.says({"sessions": [{"sessionId": "s"}]})
    with pytest.raises(InvalidResponse, match="DRIVE_SESSION_STATUS"):
        ask("history", "u")


def test_fleets_are_created_renamed_and_joined(ask, stage):
    stage.says({"fleetId": "f"}, 204, {"codes": ["x"]})
    assert ask("create_fleet", "f", "Vans").document == {"fleetId": "f"}
    assert ask("rename_fleet", "f", "Cars").name == "Cars"
    assert ask("invitation", "f").document == {"codes": ["x"]}
    assert [(asked.method, asked.path) for asked in stage.asked] == [
        ("POST", "/drive/emp/v1/fleets"),
        ("PUT", "/drive/emp/v1/fleets/f/rename"),
        ("GET", "/drive/emp/v1/fleets/f/invitation"),
    ]
    assert stage.asked[1].json == {"fleetName": "Cars"}


def test_a_fleet_that_is_there_is_a_conflict(ask, stage):
    stage.says(409)
    with pytest.raises(DriveConflict):
        ask("create_fleet", "f")


def test_a_balance_is_exact_and_off_until_a_setting_says_where(ask, stage, on_stage):
    stage.says(b'{"balance": 0.1000000000000000000001}')
    with pytest.raises(SettingsError, match="DRIVE_BALANCE_PATH"):
        ask("balance", "u")
    assert stage.asked == []
    settings = on_stage(drive_balance_path="/v1/users/{user_id}/balance")
    assert ask("balance", "u", settings=settings) == Decimal("0.1000000000000000000001")


def test_a_location_has_its_operators_display_name(ask, stage):
    stage.says({"operator_display_name": "Good Charge", "operator": "Big Corp"})
    assert ask("location", "l1").operator_display_name == "Good Charge"


def test_a_token_is_pushed_to_roam_without_a_key_of_the_drive_api(ask, stage, on_stage):
    stage.says({"status_code": 1000})
    url = f"{stage.url}/ocpi/2.2.1/tokens/"
    settings = on_stage(drive_api_key=None, roam_ocpi_url=url, roam_ocpi_token="the token")
    ask("push_token", TOKEN, settings=settings)
    (asked,) = stage.asked
    assert (asked.method, asked.path) == ("PUT", "/ocpi/2.2.1/tokens/DE/ABC/04A1?type=RFID")
    assert asked.headers["authorization"] == "Token dGhlIHRva2Vu"
    assert "x-api-key" not in asked.headers
    assert asked.json["whitelist"] == "ALLOWED_OFFLINE"


def test_without_settings_nothing_is_asked(ask, on_stage):
    with pytest.raises(SettingsError, match="DRIVE_API_KEY is not set"):
        ask("session", "u", "s", settings=on_stage(drive_api_key=None))
    with pytest.raises(SettingsError, match="ROAM_OCPI_URL"):
        ask("push_token", TOKEN)


@pytest.mark.parametrize("fault", [500, 502, 408, b'{"sessionId": "s1", "sess'])
def test_a_read_is_tried_again(ask, stage, fault):
    stage.says(fault, fault, fault, SESSION)
    assert ask("session", "u", "s1").status == "STARTED"
    assert len(stage.asked) == 4


@pytest.mark.parametrize("fault", [500, b"<html>"])
def test_a_read_is_given_up_after_its_attempts(ask, stage, fault):
    stage.says(fault)
    with pytest.raises(DriveError):
        ask("session", "u", "s1")
    assert len(stage.asked) == 4


def test_a_history_is_a_read_although_it_is_a_post(ask, stage):
    stage.says(500, {"sessions": []})
    assert ask("history", "u") == []
    assert len(stage.asked) == 2


@pytest.mark.parametrize("fault", [500, 429, 408])
@pytest.mark.parametrize("change", [("create_fleet", "f"), ("rename_fleet", "f", "n")])
def test_what_changes_something_is_sent_once(ask, stage, fault, change):
    stage.says(fault)
    with pytest.raises(DriveUnavailable):
        ask(*change)
    assert len(stage.asked) == 1


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (403, Unauthorized), (404, NotFound)])
def test_what_will_not_pass_is_not_tried_again(ask, stage, status, error):
    stage.says(status)
    with pytest.raises(error):
        ask("session", "u", "s1")
    assert len(stage.asked) == 1


def test_a_shape_that_is_not_understood_is_not_tried_again(ask, stage):
    stage.says({"sessions": "none"})
    with pytest.raises(InvalidResponse, match="no list of sessions"):
        ask("history", "u")
    assert len(stage.asked) == 1


def test_after_429_it_waits_for_the_next_minute(ask, stage, clock, valkey):
    stage.says(429, SESSION)
    ask("session", "u", "s1", connection=valkey)
    assert clock.slept == [21]  # it is 10:56:40, and clocks differ a little


def test_after_429_no_process_asks_in_that_minute(ask, stage, clock, valkey, on_stage):
    stage.says(429, SESSION)
    with pytest.raises(DriveUnavailable):
        ask("session", "u", "s1", connection=valkey, deadline=timedelta(seconds=5))
    assert len(stage.asked) == 1
    with (
        DriveClient(on_stage(), valkey, now=clock.now, deadline=timedelta(seconds=5)) as other,
        pytest.raises(RateBudgetExhausted),
    ):
        other.session("u", "s1")
    assert len(stage.asked) == 1
    clock.sleep(21)
    ask("session", "u", "s1", connection=valkey, deadline=timedelta(seconds=5))
    assert len(stage.asked) == 2


def test_after_429_it_waits_without_redis_too(ask, stage, clock):
    stage.says(429, SESSION)
    ask("session", "u", "s1")
    assert clock.slept == [21]


def test_one_that_is_always_asked_too_often_is_given_up(ask, stage, clock):
    stage.says(429)
    with pytest.raises(Throttled):
        ask("session", "u", "s1", deadline=timedelta(minutes=10))
    assert len(stage.asked) == 4
    assert clock.slept == [21, 60, 60]


def test_the_budget_is_waited_for_but_not_beyond_the_deadline(ask, stage, clock, valkey, on_stage):
    stage.says(SESSION)
    settings = on_stage(drive_per_minute=1)
    ask("session", "u", "s1", connection=valkey, settings=settings)
    with pytest.raises(RateBudgetExhausted):
        ask("session", "u", "s1", connection=valkey, settings=settings, deadline=timedelta(seconds=20))
    assert clock.slept == []
    ask("session", "u", "s1", connection=valkey, settings=settings, deadline=timedelta(seconds=22))
    assert clock.slept == [21]
    assert len(stage.asked) == 2


def test_two_clients_share_one_budget(ask, stage, clock, valkey_url, on_stage):
    stage.says(SESSION)
    settings = on_stage(drive_per_minute=10)
    for _ in range(5):  # each has connections of its own
        for _ in range(4):
            with redis.Redis.from_url(valkey_url) as connection:
                ask("session", "u", "s1", connection=connection, settings=settings)
    assert clock.slept == [21]  # 20 calls: 10 in each of two minutes


@pytest.mark.parametrize("slow", [{"after": 30}, {"drip": 0.06}])
def test_an_answer_that_takes_too_long_is_not_waited_for(ask, stage, on_stage, slow):
    stage.says(stage.slowly(SESSION | {"padding": "x" * 500}, **slow))
    began_at = time.monotonic()
    with pytest.raises(DriveUnavailable, match="in time"):
        ask("session", "u", "s1", settings=on_stage(drive_timeout="300ms", drive_attempts=1))
    assert time.monotonic() - began_at < 20


def test_a_service_that_is_not_there_is_unavailable(ask, on_stage):
    with pytest.raises(DriveUnavailable, match="cannot be reached"):
        ask("session", "u", "s1", settings=on_stage(drive_api_url="http://127.0.0.1:1"))


def test_an_answer_without_end_is_not_read_to_it(ask, stage, monkeypatch):
    monkeypatch.setattr("workers.drive.client.LONGEST_ANSWER", 1000)
    stage.says({"padding": "x" * 1000})
    with pytest.raises(InvalidResponse, match="more than"):
        ask("session", "u", "s1")


def test_no_answer_leads_the_key_elsewhere(ask, stage):
    stage.says(302)
    with pytest.raises(InvalidResponse, match="302"):
        ask("session", "u", "s1")
    assert len(stage.asked) == 1


@pytest.mark.parametrize("user_id", ["", "\ud800"])
def test_an_id_that_cannot_be_asked_for_is_not_asked_for(ask, stage, user_id):
    with pytest.raises(NotFound):
        ask("session", user_id, "s1")
    assert stage.asked == []


@pytest.mark.parametrize("url", ["http://[", "https://x.example/?a=1", "http:///path"])
def test_a_url_that_is_none_is_refused_by_name(ask, on_stage, url):
    with pytest.raises(SettingsError, match="DRIVE_API_URL"):
        ask("session", "u", "s", settings=on_stage(drive_api_url=url))


@pytest.mark.parametrize("key", ["a\nb", "ä", "a\x00b"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(ask, on_stage, key):
    with pytest.raises(SettingsError, match="DRIVE_API_KEY contains characters") as refused:
        ask("session", "u", "s", settings=on_stage(drive_api_key=key))
    assert key not in str(refused.value)


def test_a_key_in_a_file_is_read_again(on_stage, stage, tmp_path):
    stage.says(SESSION)
    file = tmp_path / "key"

    def write(text, age):
        file.write_text(text)
        os.utime(file, (time.time() - age, time.time() - age))

    write("the-first\n", 60)
    with DriveClient(on_stage(drive_api_key=None, drive_api_key_file=file), None) as client:
        for text, age in [("the-first", 60), ("the-sec", 0), ("the-second", 60), ("", 60), ("the\nthird", 60)]:
            write(text, age)
            client.session("u", "s1")
        file.unlink()
        client.session("u", "s1")
    keys = [asked.headers["x-api-key"] for asked in stage.asked]
    assert keys == ["the-first"] * 2 + ["the-second"] * 4


def test_nothing_personal_is_logged(ask, stage, caplog, valkey):
    caplog.set_level(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # as configure_logging does
    secrets = ("the-user", "the-session", "the-drive-key", "the-body")
    for fault in (500, 429, 404, b"the-body", {"sessionStatus": "the-body", "sessionId": "the-body"}):
        stage.says(fault)
        with capture_logs() as logs, pytest.raises(DriveError) as caught:
            ask("session", "the-user", "the-session", connection=valkey)
        said = f"{logs} {caplog.text} {caught.value!r} {caught.value.__cause__!r}"
        assert not [secret for secret in secrets if secret in said]
