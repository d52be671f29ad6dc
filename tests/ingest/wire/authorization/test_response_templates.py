from datetime import UTC, datetime

import pytest

from ingest.config.sections.authorization import ANSWER, OCPI_ANSWER
from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat
from ingest.wire.authorization.response_templates import (
    PLACEHOLDERS,
    ResponseTemplate,
    ocpi_envelope,
    placeholder_values,
)

NOON = datetime(2025, 6, 12, 12, tzinfo=UTC)


def filled(template, decision, **parts):
    question = AuthorizationRequest(**{"form": WireFormat.PLUGSURFING, "received_at": NOON, **parts})
    return template.fill(placeholder_values(question, decision, reference="our-id", at=NOON, language="en"))


def test_the_answer_says_the_decision_and_what_the_driver_may_be_told():
    told = filled(ANSWER, Decision(Allowed.NO_CREDIT, "Please top up."))
    assert told == {"allowed": "NO_CREDIT", "info": "Please top up."}


def test_what_is_not_known_is_left_out():
    assert filled(ANSWER, Decision(Allowed.ALLOWED, "  ")) == {"allowed": "ALLOWED"}


def test_ocpis_answer_is_an_authorization_info():
    told = filled(
        OCPI_ANSWER,
        Decision(Allowed.ALLOWED, "Welcome."),
        form=WireFormat.OCPI,
        key="0414DA",
        token_type="RFID",
        location_id="LOC1",
        evse_ids=("3256",),
    )
    assert told == {
        "allowed": "ALLOWED",
        "token": {
            "uid": "0414DA",
            "type": "RFID",
            "valid": True,
            "whitelist": "NEVER",
            "last_updated": "2025-06-12T12:00:00.000Z",
        },
        "location": {"location_id": "LOC1", "evse_uids": ["3256"]},
        "authorization_reference": "our-id",
        "info": {"language": "en", "text": "Welcome."},
    }


def test_a_place_is_named_only_where_the_driver_may_charge():
    told = filled(OCPI_ANSWER, Decision(Allowed.BLOCKED), form=WireFormat.OCPI, key="0414DA", location_id="LOC1")
    assert "location" not in told
    assert told["token"]["valid"] is False


def test_an_information_is_cut_to_what_ocpi_carries():
    assert len(filled(ANSWER, Decision(Allowed.BLOCKED, "x" * 2000))["info"]) == 512


def test_a_template_of_a_teams_own_is_filled_in_any_depth():
    template = ResponseTemplate(
        '{"result": {"status": "@allowed", "refs": ["@reference_id", "@id", "as it is"]}, "n": 1}'
    )
    told = filled(template, Decision(Allowed.EXPIRED), reference_id="r1")
    assert told == {"result": {"status": "EXPIRED", "refs": ["r1", "our-id", "as it is"]}, "n": 1}


def test_every_name_stands_for_something():
    assert set(
        placeholder_values(
            AuthorizationRequest(WireFormat.OCPI, NOON), Decision(Allowed.ALLOWED), reference="", at=NOON, language="en"
        )
    ) == set(PLACEHOLDERS)


def test_the_envelope_is_ocpis():
    assert ocpi_envelope(1000, "Success", NOON, {"allowed": "ALLOWED"}) == {
        "data": {"allowed": "ALLOWED"},
        "status_code": 1000,
        "status_message": "Success",
        "timestamp": "2025-06-12T12:00:00.000Z",
    }
    assert "data" not in ocpi_envelope(2000, "No.", NOON)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nonsense", 'AUTHORIZE_ANSWER must be a JSON object with the text "@allowed" in it.'),
        ("[]", 'AUTHORIZE_ANSWER must be a JSON object with the text "@allowed" in it.'),
        ('{"allowed": "ALLOWED"}', 'AUTHORIZE_ANSWER must be a JSON object with the text "@allowed" in it.'),
        ('{"a": "@allowed", "b": "@user"}', "AUTHORIZE_ANSWER has the unknown placeholder @user; there are @allowed, "),
        ('{"a": "@allowed", "b": ' + "[" * 9000 + "]" * 9000 + "}", "AUTHORIZE_ANSWER must be a JSON object"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_at_the_start(text, sentence):
    with pytest.raises(SettingsError) as error:
        load_settings(authorize_answer=text)
    assert str(error.value).startswith(sentence)


def test_a_template_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("AUTHORIZE_ANSWER", '{"decision": "@allowed"}')
    assert filled(load_settings().authorize_answer, Decision(Allowed.ALLOWED)) == {"decision": "ALLOWED"}
