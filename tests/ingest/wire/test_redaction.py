"""Fields are masked, hashed or removed; nothing else changes, and only a body too deep to be searched is replaced."""

import json

import pytest

from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from ingest.wire.envelope import Kind
from ingest.wire.json_documents import parse_json
from ingest.wire.redaction import Redaction, RedactionRule


def redacted(body, *rules, kind=Kind.EVENTS, key=b"k"):
    return Redaction([RedactionRule.parse(each) for each in rules], key).apply(kind, body)


BODY = b'{"event": "SESSION_STARTED", "payload": {"userEmail": "jane@example.com", "plate": "M-XY 1", "n": [1, 2]}}'


def test_a_field_is_masked_hashed_or_removed():
    payload = json.loads(redacted(BODY, "/payload/userEmail:mask", "/payload/plate:hash", "/payload/n:remove"))[
        "payload"
    ]

    assert payload["userEmail"] == "***"
    assert len(payload["plate"]) == 32
    assert "n" not in payload


def test_equal_values_have_equal_digests_of_one_key_only():
    rule = "/payload/plate:hash"

    assert redacted(BODY, rule) == redacted(BODY, rule)
    assert redacted(BODY, rule) != redacted(BODY, rule, key=b"another")


@pytest.mark.parametrize("rule", ["SESSION_STOPPED:/payload/plate:mask", "/payload/none:mask", "/n/1/x:mask", "/:mask"])
def test_without_a_matching_rule_the_bytes_are_the_same(rule):
    assert redacted(BODY, rule) is BODY


def test_a_rule_for_a_name_or_for_cdrs_applies_to_these():
    assert b"M-XY" not in redacted(BODY, "SESSION_STARTED:/payload/plate:mask")
    assert b"M-XY" not in redacted(BODY, "cdrs:/payload/plate:mask", kind=Kind.CDRS)
    assert redacted(BODY, "cdrs:/payload/plate:mask") is BODY


def test_a_rule_for_a_name_or_for_cdrs_applies_at_the_wrong_path_too():
    record = b'{"driver": "Jane", "amount": 12.50}'

    assert b"M-XY" not in redacted(BODY, "SESSION_STARTED:/payload/plate:mask", kind=Kind.CDRS)
    assert redacted(BODY, "SESSION_STOPPED:/payload/plate:mask", kind=Kind.CDRS) is BODY
    assert redacted(record, "cdrs:/driver:mask") == b'{"driver":"***","amount":12.50}'
    assert redacted(b"[" + BODY + b"," + record + b"]", "SESSION_STARTED:/payload:remove", "cdrs:/driver:remove") == (
        b'[{"event":"SESSION_STARTED"},{"amount":12.50}]'
    )


def test_each_cdr_of_an_array_is_redacted_and_amounts_keep_their_digits():
    body = b'[{"plate": "a", "amount": 12.50}, {"plate": "b", "amount": 0.12345678901234567890123}]'

    kept = redacted(body, "/plate:mask", kind=Kind.CDRS)

    assert kept == b'[{"plate":"***","amount":12.50},{"plate":"***","amount":0.12345678901234567890123}]'


def test_an_element_of_an_array_is_redacted():
    assert json.loads(redacted(BODY, "/payload/n/1:mask"))["payload"]["n"] == [1, "***"]


@pytest.mark.parametrize("body", [b"", b"not json", b"\xff\xfe", b"3", b'"text"', b"null", b"[]"])
def test_a_body_that_no_rule_understands_is_kept_as_it_is(body):
    assert redacted(body, "/payload/plate:mask", "/0:remove") == body


@pytest.mark.parametrize("end", [b"", b"]" * 100_000])
def test_a_body_that_is_nested_too_deeply_to_be_redacted_is_replaced(end):
    body = b"[" * 100_000 + end

    assert json.loads(redacted(body, "/payload/plate:mask")) == {
        "not_kept": "nested too deeply to be redacted",
        "bytes": len(body),
    }


@pytest.mark.parametrize("value", [b'"line\n"', b"9" * 5000, b'"\\ud800"'])
def test_whatever_a_plugin_could_read_is_redacted(value):
    body = b'{"event": "SESSION_STARTED", "payload": {"plate": "M-XY 1", "other": ' + value + b"}}"

    kept = redacted(body, "/payload/plate:mask")

    assert b"M-XY" not in kept
    assert parse_json(kept) == parse_json(body.replace(b"M-XY 1", b"***"))


def test_a_text_between_two_nul_characters_stays_a_text():
    body = b'{"plate": "M-XY 1", "other": "\\u0000text\\u0000", "minus": "\\u0000-\\u0000"}'

    kept = json.loads(redacted(body, "/plate:mask"))

    assert kept == {"plate": "***", "other": "\0text\0", "minus": "\0-\0"}


@pytest.mark.parametrize("rule", ["", "plate:mask", "/plate", "/plate:shout", "X/plate:mask"])
def test_a_rule_that_is_none_is_refused_at_start(rule):
    with pytest.raises(ValueError, match="must be rules by comma"):
        RedactionRule.parse(rule)


def test_hashes_need_a_key_and_rules_are_shown_as_they_are_written():
    with pytest.raises(SettingsError, match="REDACT_KEY"):
        load_settings(redact="/plate:hash")
    settings = load_settings(redact="/a~1b/c:hash, X:/d:mask", redact_key="secret")
    described = {row.name: row.effective for row in settings.describe_all()}
    assert described["REDACT"] == "/a~1b/c:hash,X:/d:mask"
    assert described["REDACT_KEY"] == "***"
