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


def rendered(template, decision, **parts):
    request = AuthorizationRequest(**{"form": WireFormat.PLUGSURFING, "received_at": NOON, **parts})
    return template.fill(placeholder_values(request, decision, reference="our-id", at=NOON, language="en"))


def test_the_response_has_the_decision_and_the_message_to_the_driver():
    content = rendered(ANSWER, Decision(Allowed.NO_CREDIT, "Please top up."))
    assert content == {"allowed": "NO_CREDIT", "info": "Please top up."}


def test_members_without_a_value_are_omitted():
    assert rendered(ANSWER, Decision(Allowed.ALLOWED, "  ")) == {"allowed": "ALLOWED"}


def test_ocpis_response_is_an_authorization_info():
    content = rendered(
        OCPI_ANSWER,
        Decision(Allowed.ALLOWED, "Welcome."),
        form=WireFormat.OCPI,
        key="0414DA",
        token_type="RFID",
        location_id="LOC1",
        evse_ids=("3256",),
    )
    assert content == {
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


def test_a_location_is_sent_only_if_the_driver_may_charge():
    content = rendered(OCPI_ANSWER, Decision(Allowed.BLOCKED), form=WireFormat.OCPI, key="0414DA", location_id="LOC1")
    assert "location" not in content
    assert content["token"]["valid"] is False


def test_a_message_is_truncated_to_ocpis_length():
    assert len(rendered(ANSWER, Decision(Allowed.BLOCKED, "x" * 2000))["info"]) == 512


def test_placeholders_are_replaced_at_any_depth():
    template = ResponseTemplate(
        '{"result": {"status": "@allowed", "refs": ["@reference_id", "@id", "as it is"]}, "n": 1}'
    )
    content = rendered(template, Decision(Allowed.EXPIRED), reference_id="r1")
    assert content == {"result": {"status": "EXPIRED", "refs": ["r1", "our-id", "as it is"]}, "n": 1}


def test_every_placeholder_has_a_value():
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
def test_an_invalid_template_is_refused_at_the_start(text, sentence):
    with pytest.raises(SettingsError) as error:
        load_settings(authorize_answer=text)
    assert str(error.value).startswith(sentence)


def test_a_template_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("AUTHORIZE_ANSWER", '{"decision": "@allowed"}')
    assert rendered(load_settings().authorize_answer, Decision(Allowed.ALLOWED)) == {"decision": "ALLOWED"}
