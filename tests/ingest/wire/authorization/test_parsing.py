import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from ingest.authorize.endpoint import field_map
from ingest.config.settings import load_settings
from ingest.errors import Unreadable
from ingest.wire.authorization.parsing import parse_ocpi, parse_plugsurfing
from ingest.wire.authorization.request import WireFormat

NOON = datetime(2025, 6, 12, 12, tzinfo=UTC)
FIELDS = field_map(load_settings())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["keyIdentifier", "evseIds", "location"]), inner),
)


def parsed(**document):
    return parse_plugsurfing(json.dumps(document).encode(), FIELDS, NOON)


def ocpi(path=b"/ocpi/2.2.1/tokens/0414DA/authorize", query=b"type=RFID", body=b""):
    return parse_ocpi(path, query, body, NOON)


def test_plugsurfings_format_is_parsed_at_the_assumed_pointers():
    request = parsed(
        keyIdentifier="04AB",
        countryCode="NL",
        referenceId="r1",
        locationId="l1",
        sessionId="s1",
        evseIds=["e1", "e2"],
        colour="blue",
    )
    assert (request.form, request.received_at) == (WireFormat.PLUGSURFING, NOON)
    assert (request.key, request.country_code, request.reference_id) == ("04AB", "NL", "r1")
    assert (request.location_id, request.session_id, request.evse_ids) == ("l1", "s1", ("e1", "e2"))


def test_every_field_may_be_missing_and_unknown_fields_stay_in_the_document():
    request = parsed(colour={"of": "the car"})
    assert (request.key, request.country_code, request.reference_id, request.evse_ids) == (None, None, None, ())
    assert request.document == {"colour": {"of": "the car"}}


def test_of_several_pointers_the_first_with_a_text_counts():
    assert parsed(chargingKey={"keyIdentifier": "04AB"}).key == "04AB"
    assert parsed(keyIdentifier=None, chargingKey="04CD").key == "04CD"
    assert parsed(keyIdentifier={"odd": 1}, tokenUid=1234).key == "1234"


@pytest.mark.parametrize("odd", ["", "  ", True, 1.5, "a\x00b", "a\nb", "x" * 501, 10**600])
def test_a_value_that_cannot_be_an_identifier_is_none(odd):
    assert parsed(keyIdentifier=odd).key is None


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_not_an_object_is_unreadable(body):
    with pytest.raises(Unreadable):
        parse_plugsurfing(body, FIELDS, NOON)


def test_ocpis_format_has_the_key_in_its_path_and_the_location_in_its_body():
    request = ocpi(body=b'{"location_id": "LOC1", "evse_uids": ["3256", "3257"], "more": 1}')
    assert (request.form, request.key, request.token_type) == (WireFormat.OCPI, "0414DA", "RFID")
    assert (request.location_id, request.evse_ids) == ("LOC1", ("3256", "3257"))
    assert request.document["more"] == 1


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"\xff", b'{"location_id": 7.5}'])
def test_ocpis_body_is_optional_whatever_it_is(body):
    request = ocpi(body=body)
    assert (request.key, request.location_id) == ("0414DA", None)


def test_an_encoded_slash_belongs_to_the_uid():
    assert ocpi(path=b"/ocpi/2.2.1/tokens/a%2Fb%20c/authorize/").key == "a/b c"


@pytest.mark.parametrize(
    ("query", "token_type"), [(b"", "RFID"), (b"type=", "RFID"), (b"type=AD_HOC_USER&type=RFID", "AD_HOC_USER")]
)
def test_a_token_is_an_rfid_card_by_default(query, token_type):
    assert ocpi(query=query).token_type == token_type


@how(max_examples=50)
@given(JSON)
def test_any_json_is_a_request_or_unreadable(document):
    body = json.dumps(document).encode()
    assert ocpi(body=body).key == "0414DA"
    if isinstance(document, dict):
        request = parse_plugsurfing(body, FIELDS, NOON)
        assert request.key is None or request.key.isprintable()


@given(st.binary())
def test_any_bytes_are_a_request_or_unreadable(body):
    assert ocpi(body=body, query=body.replace(b"#", b""), path=b"/ocpi/2.2.1/tokens/" + body + b"/authorize")
    try:
        parse_plugsurfing(body, FIELDS, NOON)
    except Unreadable:
        return
