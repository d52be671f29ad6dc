from datetime import UTC, datetime

import pytest

from ingest.authorize.decision_record import FallbackReason
from ingest.authorize.evaluator import PolicyResult
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat
from ingest.wire.json_documents import parse_json
from workers.policies.ipc import LENGTH, Evaluate, Evaluated, PolicyStarted, Ready, decode, encode

ALL = AuthorizationRequest(
    WireFormat.OCPI,
    datetime(2026, 11, 22, 20, 0, 0, 123456, tzinfo=UTC),
    key="04ab\ud800",
    token_type="APP_USER",
    country_code="DE",
    reference_id="r",
    location_id="l",
    evse_ids=("e1", "e2"),
    session_id="s",
    document={"text": "\x00\udfff", "number": 9**4000, "fraction": 0.1, "nothing": None, "list": [True, {}]},
)


@pytest.mark.parametrize(
    "frame",
    [
        Ready(),
        Evaluate(1, ALL, frozenset({"b", "a"})),
        Evaluate(2, AuthorizationRequest(WireFormat.PLUGSURFING, datetime.now(UTC)), frozenset()),
        PolicyStarted(3, "key_list"),
        Evaluated(4, PolicyResult()),
        Evaluated(5, PolicyResult(Decision(Allowed.BLOCKED, "Call us. \ud83d", "why"), "key_list")),
        Evaluated(6, PolicyResult(policy="balance", failure=FallbackReason.RAISED, error="KeyError")),
    ],
)
def test_what_is_written_is_read(frame):
    content = encode(frame)
    assert LENGTH.unpack(content[: LENGTH.size]) == (len(content) - LENGTH.size,)
    assert decode(content[LENGTH.size :]) == frame


def test_what_could_be_read_of_a_body_can_be_passed_on_however_deeply_it_is_nested():
    document = parse_json(b'{"a":' * 800 + b"1" + b"}" * 800)
    put = Evaluate(
        1, AuthorizationRequest(WireFormat.PLUGSURFING, datetime.now(UTC), key="04ab", document=document), frozenset()
    )
    assert decode(encode(put)[LENGTH.size :]) == put


def test_a_decision_of_a_plugins_own_type_is_told_as_what_it_says():
    class Refusal(Decision):
        """Cannot be found by its name from outside."""

    ruled = decode(encode(Evaluated(1, PolicyResult(Refusal(Allowed.EXPIRED), "own")))[LENGTH.size :])
    assert ruled == Evaluated(1, PolicyResult(Decision(Allowed.EXPIRED), "own"))
