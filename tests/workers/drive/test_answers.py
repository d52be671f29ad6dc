"""What an answer means, by its status and its bytes."""

from decimal import Decimal

import pytest

from workers.drive import requests
from workers.drive.answers import read_answer
from workers.drive.errors import (
    DriveConflict,
    DriveNonsense,
    DriveRefused,
    DriveRejected,
    DriveUnavailable,
    Garbled,
    NotInDrive,
    Throttled,
)
from workers.drive.requests import Request, Service

READ = requests.session("user-1", "session-1")
CHANGE = requests.create_fleet("fleet-1", None)
TOKEN = Request("push a token", "token", "PUT", "/x", service=Service.ROAM, is_read=False, setting="ROAM_OCPI_URL")


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, DriveRefused, "DRIVE_API_KEY"),
        (403, DriveRefused, "DRIVE_API_KEY lacks the permission to read a session"),
        (404, NotInDrive, "no such session"),
        (409, DriveConflict, "already"),
        (429, Throttled, "next minute"),
        (400, DriveRejected, "did not accept"),
        (422, DriveRejected, "422"),
        (408, DriveUnavailable, "408"),
        (500, DriveUnavailable, "500"),
        (503, DriveUnavailable, "503"),
        (599, DriveUnavailable, "599"),
        (301, DriveNonsense, "DRIVE_API_URL"),
        (101, DriveNonsense, "101"),
    ],
)
def test_a_status_becomes_an_error_that_repeats_nothing_of_the_answer(status, error, words):
    with pytest.raises(error, match=words) as caught:
        read_answer(READ, status, b'{"message": "user-1 session-1 the-key"}')
    assert type(caught.value) is error
    assert not {"user-1", "session-1", "the-key"} & set(str(caught.value).split())


def test_what_is_not_found_where_a_setting_says_names_the_setting():
    with pytest.raises(NotInDrive, match="DRIVE_BALANCE_PATH"):
        read_answer(requests.balance("u", "/x/{user_id}"), 404, b"")


def test_what_may_have_changed_something_says_so():
    with pytest.raises(DriveUnavailable, match="may have been done all the same"):
        read_answer(CHANGE, 502, b"")
    with pytest.raises(DriveUnavailable, match=r"\(502\)\.$"):
        read_answer(READ, 502, b"")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a": ', b"\xff\xfe\xfa", b"[" * 100_000])
def test_a_read_that_is_no_json_did_not_arrive_whole(body):
    with pytest.raises(Garbled):
        read_answer(READ, 200, body)


def test_fractions_are_exact_to_the_last_digit():
    assert read_answer(READ, 200, b'{"a": 0.10, "b": 12345678901234567890.12}') == {
        "a": Decimal("0.10"),
        "b": Decimal("12345678901234567890.12"),
    }


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_change_may_be_answered_with_nothing(status):
    assert read_answer(CHANGE, status, b"") is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"status_code": 2001, "timestamp": "x"}', DriveRejected),
        (b'{"status_code": 3000}', DriveRejected),
        (b'{"status": "ok"}', DriveNonsense),
        (b"[]", DriveNonsense),
    ],
)
def test_ocpi_says_in_its_envelope_whether_it_took_a_token(body, error):
    with pytest.raises(error, match="Roam OCPI"):
        read_answer(TOKEN, 200, body)
    assert read_answer(TOKEN, 200, b'{"status_code": 1000}') == {"status_code": 1000}


def test_the_token_of_roam_is_named_when_it_is_refused():
    with pytest.raises(DriveRefused, match="ROAM_OCPI_TOKEN"):
        read_answer(TOKEN, 401, b"")
