"""Responses become errors by status, JSON by bytes, and models by what the settings point at."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.config.settings import load_settings
from workers.drive import drive_requests
from workers.drive.drive_errors import (
    BadRequest,
    DriveConflict,
    DriveUnavailable,
    InvalidResponse,
    NotFound,
    Throttled,
    TruncatedResponse,
    Unauthorized,
)
from workers.drive.drive_requests import Request, Service
from workers.drive.drive_responses import ResponseParser, parse_response

READ = drive_requests.session("user-1", "session-1")
CHANGE = drive_requests.create_fleet("fleet-1", None)
TOKEN = Request("push a token", "token", "PUT", "/x", service=Service.ROAM, is_read=False, setting="ROAM_OCPI_URL")


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, Unauthorized, "DRIVE_API_KEY"),
        (403, Unauthorized, "DRIVE_API_KEY lacks the permission to read a session"),
        (404, NotFound, "no such session"),
        (409, DriveConflict, "already"),
        (429, Throttled, "next minute"),
        (400, BadRequest, "did not accept"),
        (422, BadRequest, "422"),
        (408, DriveUnavailable, "408"),
        (500, DriveUnavailable, "500"),
        (503, DriveUnavailable, "503"),
        (599, DriveUnavailable, "599"),
        (301, InvalidResponse, "DRIVE_API_URL"),
        (101, InvalidResponse, "101"),
    ],
)
def test_a_status_becomes_an_error_that_repeats_nothing_of_the_response(status, error, words):
    with pytest.raises(error, match=words) as caught:
        parse_response(READ, status, b'{"message": "user-1 session-1 the-key"}')
    assert type(caught.value) is error
    assert not {"user-1", "session-1", "the-key"} & set(str(caught.value).split())


def test_a_404_at_a_path_from_a_setting_names_the_setting():
    with pytest.raises(NotFound, match="DRIVE_BALANCE_PATH"):
        parse_response(drive_requests.balance("u", "/x/{user_id}"), 404, b"")


def test_a_failed_write_says_that_it_may_have_been_applied():
    with pytest.raises(DriveUnavailable, match="may have been applied"):
        parse_response(CHANGE, 502, b"")
    with pytest.raises(DriveUnavailable, match=r"\(502\)\.$"):
        parse_response(READ, 502, b"")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a": ', b"\xff\xfe\xfa", b"[" * 100_000])
def test_a_read_without_valid_json_is_truncated(body):
    with pytest.raises(TruncatedResponse):
        parse_response(READ, 200, body)


def test_fractions_are_exact_to_the_last_digit():
    assert parse_response(READ, 200, b'{"a": 0.10, "b": 12345678901234567890.12}') == {
        "a": Decimal("0.10"),
        "b": Decimal("12345678901234567890.12"),
    }


@pytest.mark.parametrize("status", [200, 201, 204])
def test_the_response_to_a_write_may_be_empty(status):
    assert parse_response(CHANGE, status, b"") is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"status_code": 2001, "timestamp": "x"}', BadRequest),
        (b'{"status_code": 3000}', BadRequest),
        (b'{"status": "ok"}', InvalidResponse),
        (b"[]", InvalidResponse),
    ],
)
def test_the_status_code_of_ocpi_decides_whether_a_token_was_accepted(body, error):
    with pytest.raises(error, match="Roam OCPI"):
        parse_response(TOKEN, 200, body)
    assert parse_response(TOKEN, 200, b'{"status_code": 1000}') == {"status_code": 1000}


def test_a_refused_token_of_roam_names_its_setting():
    with pytest.raises(Unauthorized, match="ROAM_OCPI_TOKEN"):
        parse_response(TOKEN, 401, b"")


SESSION = {
    "sessionId": "s1",
    "userId": "u1",
    "sessionStatus": "COMPLETE",
    "startTime": "2025-06-12T10:56:51.5Z",
    "endTime": "2025-06-12T11:56:51Z",
    "locationId": 42,
    "chargingKeyId": "04A1",
    "operator_display_name": "Good Charge",
    "balanceStatus": "OPEN",
    "new": {"field": Decimal("0.10")},
}


@pytest.fixture(scope="module")
def parser() -> ResponseParser:
    return ResponseParser(load_settings())


def test_a_session_has_the_known_fields_and_the_whole_document(parser):
    session = parser.session(SESSION, user_id="u1", session_id="s1")
    assert session.model_dump(exclude={"document", "completed_at"}) == {
        "session_id": "s1",
        "user_id": "u1",
        "status": "COMPLETE",
        "started_at": datetime(2025, 6, 12, 10, 56, 51, 500_000, tzinfo=UTC),
        "ended_at": datetime(2025, 6, 12, 11, 56, 51, tzinfo=UTC),
        "location_id": "42",
        "charging_key_id": "04A1",
        "operator_display_name": "Good Charge",
        "is_operator_of_location": False,
        "balance_status": "OPEN",
    }
    assert session.document is SESSION


def test_a_session_needs_only_a_status(parser):
    session = parser.session({"sessionStatus": "NEW_WORD", "startTime": "soon"}, user_id="u", session_id="s")
    assert (session.session_id, session.user_id, session.status, session.started_at) == ("s", "u", "NEW_WORD", None)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"sessionId": "s"}, "DRIVE_SESSION_STATUS"),
        ({"sessionId": "other", "sessionStatus": "STARTED"}, "another session"),
        ([], "did not respond with a session"),
        (None, "did not respond with a session"),
    ],
)
def test_an_invalid_session_names_the_setting(parser, document, words):
    with pytest.raises(InvalidResponse, match=words):
        parser.session(document, user_id="u", session_id="s")


def test_a_session_in_a_list_needs_an_id(parser):
    with pytest.raises(InvalidResponse, match="DRIVE_SESSION_ID"):
        parser.session({"sessionStatus": "STARTED"}, user_id="u")


def test_settings_say_where_fields_are():
    settings = load_settings(
        drive_session_started_at="/times/0/at,/begun", drive_session_location="/spot/~1id", drive_session_user="/driver"
    )
    document = {"sessionStatus": "STARTED", "begun": 1749725811, "spot": {"/id": "l1"}, "driver": "d", "userId": "u"}
    session = ResponseParser(settings).session(document, user_id="u", session_id="s")
    assert session.started_at == datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC)
    assert (session.location_id, session.user_id) == ("l1", "d")


@pytest.mark.parametrize(
    ("valid_to", "read"),
    [
        ("2027-01-31T10:00:00+01:00", datetime(2027, 1, 31, 9, tzinfo=UTC)),
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC)),
        (1749725811, datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC)),
        ("2027-13-31", None),
        ("9999-12-31", None),
        ("", None),
        ({}, None),
        (True, None),
        (None, None),
    ],
)
def test_a_key_is_valid_until_a_time_or_the_end_of_a_day(parser, valid_to, read):
    assert parser.charging_key({"keyIdentifier": "04", "validTo": valid_to}, fleet_id=None).valid_to == read


def test_a_charging_key_has_the_requested_fleet_and_is_enabled_by_default(parser):
    key = parser.charging_key({"keyIdentifier": "04A1", "visualNumber": "DE-1"}, fleet_id="f1")
    assert (key.identifier, key.fleet_id, key.enabled, key.visual_number) == ("04A1", "f1", True, "DE-1")
    assert parser.charging_key({"keyIdentifier": "04A1", "referenceId": "DE-1"}, fleet_id=None).visual_number == "DE-1"
    assert not parser.charging_key({"keyIdentifier": "04A1", "enabled": False}, fleet_id=None).enabled
    with pytest.raises(InvalidResponse, match="identifier"):
        parser.charging_key({"enabled": True}, fleet_id=None)


@pytest.mark.parametrize(
    ("document", "amount"),
    [
        ({"balance": Decimal("12.30")}, "12.30"),
        ({"balance": {"amount": "-0.05", "currency": "EUR"}}, "-0.05"),
        ({"amount": 7}, "7"),
        ({"balance": None, "amount": "1e2"}, "100"),
    ],
)
def test_a_balance_is_exact(parser, document, amount):
    assert str(parser.balance(document)) == amount


@pytest.mark.parametrize("balance", ["NaN", "Infinity", True, "much", None, [], Decimal("1E+999999"), "1_0"])
def test_a_balance_that_is_not_a_number_is_invalid(parser, balance):
    with pytest.raises(InvalidResponse, match="DRIVE_BALANCE"):
        parser.balance({"balance": balance})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SESSION, "amount", "x"]), inner),
    max_leaves=12,
)


@given(document=JSON)
def test_every_document_is_parsed_or_is_an_invalid_response(parser, document):
    for read in (
        lambda: parser.session(document, user_id="u", session_id="s"),
        lambda: parser.session(document, user_id="u"),
        lambda: parser.charging_key(document, fleet_id=None),
        lambda: parser.location(document, location_id="l"),
        lambda: parser.balance(document),
    ):
        try:
            found = read()
        except InvalidResponse:
            continue
        assert found is not None
