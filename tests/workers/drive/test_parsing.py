"""Models are made of what the settings point at; what is odd is None, and what must be there is asked for."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.config.settings import load_settings
from workers.drive.errors import InvalidResponse
from workers.drive.parsing import ResponseParser

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
def reading() -> ResponseParser:
    return ResponseParser(load_settings())


def test_a_session_has_all_that_is_told_and_keeps_the_rest(reading):
    session = reading.session(SESSION, user_id="u1", session_id="s1")
    assert session.model_dump(exclude={"document", "completed_at"}) == {
        "session_id": "s1",
        "user_id": "u1",
        "status": "COMPLETE",
        "started_at": datetime(2025, 6, 12, 10, 56, 51, 500_000, tzinfo=UTC),
        "ended_at": datetime(2025, 6, 12, 11, 56, 51, tzinfo=UTC),
        "location_id": "42",
        "charging_key_id": "04A1",
        "operator_display_name": "Good Charge",
        "balance_status": "OPEN",
    }
    assert session.document is SESSION


def test_a_session_needs_a_status_and_nothing_else(reading):
    session = reading.session({"sessionStatus": "NEW_WORD", "startTime": "soon"}, user_id="u", session_id="s")
    assert (session.session_id, session.user_id, session.status, session.started_at) == ("s", "u", "NEW_WORD", None)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"sessionId": "s"}, "DRIVE_SESSION_STATUS"),
        ({"sessionId": "other", "sessionStatus": "STARTED"}, "another session"),
        ([], "did not answer with a session"),
        (None, "did not answer with a session"),
    ],
)
def test_a_session_that_is_none_names_the_setting(reading, document, words):
    with pytest.raises(InvalidResponse, match=words):
        reading.session(document, user_id="u", session_id="s")


def test_a_session_of_a_list_needs_an_id(reading):
    with pytest.raises(InvalidResponse, match="DRIVE_SESSION_ID"):
        reading.session({"sessionStatus": "STARTED"}, user_id="u")


def test_where_a_field_is_can_be_set():
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
def test_a_key_is_valid_to_a_time_or_through_a_day(reading, valid_to, read):
    assert reading.charging_key({"keyIdentifier": "04", "validTo": valid_to}, fleet_id=None).valid_to == read


def test_a_charging_key_is_of_the_fleet_that_was_asked_for_and_enabled_unless_it_says_otherwise(reading):
    key = reading.charging_key({"keyIdentifier": "04A1", "visualNumber": "DE-1"}, fleet_id="f1")
    assert (key.identifier, key.fleet_id, key.enabled, key.visual_number) == ("04A1", "f1", True, "DE-1")
    assert not reading.charging_key({"keyIdentifier": "04A1", "enabled": False}, fleet_id=None).enabled
    with pytest.raises(InvalidResponse, match="identifier"):
        reading.charging_key({"enabled": True}, fleet_id=None)


@pytest.mark.parametrize(
    ("document", "amount"),
    [
        ({"balance": Decimal("12.30")}, "12.30"),
        ({"balance": {"amount": "-0.05", "currency": "EUR"}}, "-0.05"),
        ({"amount": 7}, "7"),
        ({"balance": None, "amount": "1e2"}, "100"),
    ],
)
def test_a_balance_is_exact(reading, document, amount):
    assert str(reading.balance(document)) == amount


@pytest.mark.parametrize("balance", ["NaN", "Infinity", True, "much", None, [], Decimal("1E+999999"), "1_0"])
def test_what_is_no_amount_is_no_balance(reading, balance):
    with pytest.raises(InvalidResponse, match="DRIVE_BALANCE"):
        reading.balance({"balance": balance})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SESSION, "amount", "x"]), inner),
    max_leaves=12,
)


@given(document=JSON)
def test_whatever_comes_is_read_or_nonsense(reading, document):
    for read in (
        lambda: reading.session(document, user_id="u", session_id="s"),
        lambda: reading.session(document, user_id="u"),
        lambda: reading.charging_key(document, fleet_id=None),
        lambda: reading.location(document, location_id="l"),
        lambda: reading.balance(document),
    ):
        try:
            found = read()
        except InvalidResponse:
            continue
        assert found is not None
