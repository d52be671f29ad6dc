"""What an answer means, by its status and its bytes."""

from decimal import Decimal

import pytest

from workers.drive import requests
from workers.drive.errors import (
    BadRequest,
    DriveConflict,
    DriveUnavailable,
    InvalidResponse,
    NotFound,
    Throttled,
    TruncatedResponse,
    Unauthorized,
)
from workers.drive.requests import Request, Service
from workers.drive.responses import parse_response

READ = requests.session("user-1", "session-1")
CHANGE = requests.create_fleet("fleet-1", None)
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
def test_a_status_becomes_an_error_that_repeats_nothing_of_the_answer(status, error, words):
    with pytest.raises(error, match=words) as caught:
        parse_response(READ, status, b'{"message": "user-1 session-1 the-key"}')
    assert type(caught.value) is error
    assert not {"user-1", "session-1", "the-key"} & set(str(caught.value).split())


def test_what_is_not_found_where_a_setting_says_names_the_setting():
    with pytest.raises(NotFound, match="DRIVE_BALANCE_PATH"):
        parse_response(requests.balance("u", "/x/{user_id}"), 404, b"")


def test_what_may_have_changed_something_says_so():
    with pytest.raises(DriveUnavailable, match="may have been done all the same"):
        parse_response(CHANGE, 502, b"")
    with pytest.raises(DriveUnavailable, match=r"\(502\)\.$"):
        parse_response(READ, 502, b"")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a": ', b"\xff\xfe\xfa", b"[" * 100_000])
def test_a_read_that_is_no_json_did_not_arrive_whole(body):
    with pytest.raises(TruncatedResponse):
        parse_response(READ, 200, body)


def test_fractions_are_exact_to_the_last_digit():
    assert parse_response(READ, 200, b'{"a": 0.10, "b": 12345678901234567890.12}') == {
        "a": Decimal("0.10"),
        "b": Decimal("12345678901234567890.12"),
    }


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_change_may_be_answered_with_nothing(status):
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
def test_ocpi_says_in_its_envelope_whether_it_took_a_token(body, error):
    with pytest.raises(error, match="Roam OCPI"):
        parse_response(TOKEN, 200, body)
    assert parse_response(TOKEN, 200, b'{"status_code": 1000}') == {"status_code": 1000}


def test_the_token_of_roam_is_named_when_it_is_refused():
    with pytest.raises(Unauthorized, match="ROAM_OCPI_TOKEN"):
        parse_response(TOKEN, 401, b"")
