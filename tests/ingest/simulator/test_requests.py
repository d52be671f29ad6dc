"""Requests are signed as Plugsurfing signs them, and know which responses are right."""

import gzip
import shutil
import subprocess

import pytest

from ingest.errors import NotAuthentic, SettingsError
from ingest.events import ChargingRecord, decode
from ingest.simulator.faults import Fault, PlannedRequest
from ingest.simulator.requests import RequestSigner, SigningKeyChoice, TransferMode, as_curl
from ingest.simulator.scenarios import (
    Participants,
    build_scenario,
    make_event,
)
from ingest.wire.envelope import Envelope, Kind, verify_request
from ingest.wire.signature import SigningKeys
from tests.ingest.simulator.samples import CURRENT, KEYS, NOW, PARTICIPANTS, STARTED


def test_a_cdr_goes_to_its_own_url_and_has_its_session():
    record = build_scenario("cdr", PARTICIPANTS, now=NOW)[-1]
    event = decode(record.kind, record.body)
    assert isinstance(event, ChargingRecord)
    assert event.session_id == "L60XMxWy0oP"
    assert CURRENT.request(PlannedRequest(record), at=NOW).path == "/plugsurfing/cdrs"


@pytest.mark.parametrize(("sign", "key"), [(SigningKeyChoice.CURRENT, "current"), (SigningKeyChoice.NEXT, "next")])
def test_a_request_is_signed_with_the_chosen_key(sign, key):
    request = RequestSigner(KEYS, sign, required=True).request(STARTED, at=NOW)
    envelope = opened(request)
    assert envelope.signed_with == key
    assert envelope.signed_at == NOW
    assert request.expected == {200}


@pytest.mark.parametrize(
    ("sign", "required", "keys", "expected"),
    [
        (SigningKeyChoice.BAD, True, KEYS, {403}),
        (SigningKeyChoice.NONE, True, KEYS, {403}),
        (SigningKeyChoice.NONE, False, KEYS, {200}),
        (SigningKeyChoice.BAD, False, KEYS, {403}),
        (SigningKeyChoice.BAD, False, SigningKeys(authorizations=(b"secret",)), {200}),
    ],
)
def test_a_missing_or_wrong_signature_should_be_refused_if_the_receiver_can_tell(sign, required, keys, expected):
    assert RequestSigner(keys, sign, required).request(STARTED, at=NOW).expected == expected


def test_a_key_that_is_not_set_is_an_error():
    with pytest.raises(SettingsError, match="PLUGSURFING_HMAC_NEXT"):
        RequestSigner(SigningKeys(b"key"), SigningKeyChoice.NEXT, required=True)


def test_the_authorization_header_is_sent_if_it_is_set():
    keys = SigningKeys(b"key", authorizations=(b"first", b"second"))
    request = RequestSigner(keys, SigningKeyChoice.CURRENT, required=True).request(STARTED, at=NOW)
    assert request.headers["authorization"] == "first"


def test_faults_change_the_request_and_its_expected_statuses():
    def request(*faults: Fault):
        return CURRENT.request(PlannedRequest(STARTED.event, frozenset(faults)), at=NOW)

    assert request(Fault.GZIP).expected == {415}
    assert gzip.decompress(request(Fault.GZIP).body) == STARTED.event.body
    assert request(Fault.BAD_SIG).expected == {403}
    assert request(Fault.BAD_SIG, Fault.GZIP).expected == {403, 415}
    assert (request(Fault.CHUNKED).transfer, request(Fault.CHUNKED).expected) == (TransferMode.CHUNKED, {200})
    assert (request(Fault.SLOW).transfer, request(Fault.SLOW).expected) == (TransferMode.SLOW, {200})
    assert request(Fault.SLOW, Fault.GZIP).transfer is TransferMode.WHOLE
    with pytest.raises(NotAuthentic):
        opened(request(Fault.BAD_SIG))


def opened(request) -> Envelope:
    headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
    return verify_request(Kind.EVENTS, headers, request.body, KEYS, signature_required=True, received_at=NOW)


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
@pytest.mark.parametrize("fault", [None, Fault.CHUNKED, Fault.SLOW, Fault.GZIP, Fault.BAD_SIG])
def test_the_printed_curl_command_does_what_sending_does(receiver, fault):
    participants = Participants('it\'s "quoted" $HOME \\ `id` é', "user1")
    step = PlannedRequest(make_event("SESSION_STARTED", participants, NOW), frozenset({fault} if fault else ()))
    request = CURRENT.request(step, at=NOW)
    command = as_curl(request, receiver.url) + " --output /dev/null --write-out '%{http_code}'"
    status = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert {int(status)} == request.expected
    assert receiver.chunked == [fault is Fault.CHUNKED]
    if request.expected == {200}:
        (envelope,) = receiver.kept
        assert envelope.body == step.event.body
