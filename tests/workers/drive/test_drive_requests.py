"""Requests to the Drive API: any id is one path segment, bodies are as documented, `repr` shows no id."""

import json
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.drive import drive_requests
from workers.drive.drive_errors import NotFound
from workers.drive.drive_requests import Service
from workers.drive.models import ALL_STATUSES, RoamToken, Whitelist

AT = datetime(2025, 6, 12, 12, 56, 51, tzinfo=timezone(timedelta(hours=2)))
TOKEN = RoamToken(
    country_code="DE", party_id="ABC", uid="04/A1", contract_id="C1", issuer="We", whitelist=Whitelist.NEVER
)


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("user1", "user1"),
        ("a@b.example", "a%40b.example"),
        ("a/b", "a%2Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("%2F", "%252F"),
        (" ", "%20"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "..."),
        ("ü漢\x00\r\n", "%C3%BC%E6%BC%A2%00%0D%0A"),
    ],
)
def test_an_id_is_one_segment_of_a_path(text, segment):
    assert drive_requests.encode_segment(text) == segment


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_arrives_unchanged(text):
    url = httpx.URL(f"http://127.0.0.1/drive{drive_requests.session(text, text).path}")
    *_, users, user_id, sessions, session_id = url.raw_path.decode("ascii").split("/")
    assert (users, unquote(user_id), sessions, unquote(session_id)) == ("users", text, "sessions", text)
    assert url.raw_path.startswith(b"/drive/v1/users/")


@pytest.mark.parametrize("text", ["", "\ud800", "x\udfff", "ü" * 5_000])
def test_an_id_that_cannot_be_in_a_url_is_not_found(text):
    with pytest.raises(NotFound):
        drive_requests.encode_segment(text)


def test_a_history_names_its_statuses_and_bounds_its_starts_in_utc():
    request = drive_requests.history(
        "u", statuses=ALL_STATUSES, charging_key_id="k", started_from=AT, started_until=AT, cursor="c"
    )
    assert (request.method, request.path, request.is_read) == ("POST", "/v1/users/u/sessions/history", True)
    assert json.loads(request.body) == {
        "sessionStatus": ["WAITING_TO_START", "STARTED", "STOP_FAILED", "COMPLETE"],
        "chargingKeyId": "k",
        "startTime": "2025-06-12T10:56:51Z",
        "endTime": "2025-06-12T10:56:51Z",
        "cursor": "c",
    }
    assert json.loads(drive_requests.history("u", statuses=["STARTED"]).body) == {"sessionStatus": ["STARTED"]}


def test_a_time_without_a_time_zone_is_refused():
    with pytest.raises(ValueError, match="zone"):
        drive_requests.history("u", statuses=[], started_from=datetime(2025, 6, 12))  # noqa: DTZ001 - that is the point


def test_charging_keys_are_requested_by_page():
    request = urlsplit(drive_requests.charging_keys("a&b=c", page_size=500, cursor="x/+=").path)
    assert request.path == "/emp/v1/charging-keys"
    assert parse_qs(request.query) == {"fleetId": ["a&b=c"], "cursor": ["x/+="], "page_size": ["500"]}
    assert drive_requests.charging_keys(None, page_size=10).path == "/emp/v1/charging-keys?page_size=10"


@pytest.mark.parametrize("size", [9, 501])
def test_a_page_size_outside_the_limits_is_refused(size):
    with pytest.raises(ValueError, match="10 to 500"):
        drive_requests.charging_keys(None, page_size=size)


def test_a_fleet_is_created_with_or_without_a_name():
    assert json.loads(drive_requests.create_fleet("f", "Vans").body) == {"fleetId": "f", "fleetName": "Vans"}
    assert json.loads(drive_requests.create_fleet("f", None).body) == {"fleetId": "f"}


@pytest.mark.parametrize(("fleet_id", "name"), [("", None), ("x" * 101, None), ("f", ""), ("f", "x" * 101)])
def test_a_fleet_with_a_name_that_is_too_long_or_empty_is_refused(fleet_id, name):
    with pytest.raises(ValueError, match="1 to 100 characters"):
        drive_requests.create_fleet(fleet_id, name)


@pytest.mark.parametrize("name", ["Vans", '"}, {"', "{fleet_id}", "\\"])
def test_no_name_can_change_the_structure_of_the_rename_template(name):
    template = '{"fleet": {"is": ["{fleet_name} of {fleet_id}"]}, "by": 1}'
    request = drive_requests.rename_fleet("f/1", name, template)
    assert request.path == "/emp/v1/fleets/f%2F1/rename"
    assert json.loads(request.body) == {"fleet": {"is": [f"{name} of f/1"]}, "by": 1}


def test_undocumented_paths_come_from_settings():
    assert drive_requests.balance("a/b", "/v2/{user_id}/wallet").path == "/v2/a%2Fb/wallet"
    assert drive_requests.location("l 1", "/v1/locations/{location_id}").path == "/v1/locations/l%201"


def test_a_token_is_put_in_the_form_of_ocpi():
    request = drive_requests.push_token(TOKEN, datetime(2025, 6, 12, tzinfo=UTC))
    assert (request.service, request.method, request.path) == (Service.ROAM, "PUT", "/DE/ABC/04%2FA1?type=RFID")
    assert json.loads(request.body) == {
        "country_code": "DE",
        "party_id": "ABC",
        "uid": "04/A1",
        "type": "RFID",
        "contract_id": "C1",
        "issuer": "We",
        "valid": True,
        "whitelist": "NEVER",
        "last_updated": "2025-06-12T00:00:00Z",
    }


def test_there_are_only_two_whitelists():
    assert list(Whitelist) == ["NEVER", "ALLOWED_OFFLINE"]
    with pytest.raises(ValueError, match="whitelist"):
        RoamToken(**TOKEN.model_dump() | {"whitelist": "ALWAYS"})


@pytest.mark.parametrize(
    "write",
    [
        drive_requests.create_fleet("f", None),
        drive_requests.rename_fleet("f", "n", '{"n": "{fleet_name}"}'),
        drive_requests.push_token(TOKEN, AT),
    ],
)
def test_writes_are_marked_as_such(write):
    assert not write.is_read


@pytest.mark.parametrize(
    "shown",
    [
        drive_requests.session("secret-1", "secret-2"),
        drive_requests.history("secret-1", statuses=ALL_STATUSES, charging_key_id="secret-2"),
        drive_requests.push_token(TOKEN.model_copy(update={"uid": "secret-1", "contract_id": "secret-2"}), AT),
    ],
)
def test_a_repr_shows_no_id(shown):
    assert "secret" not in repr(shown)
