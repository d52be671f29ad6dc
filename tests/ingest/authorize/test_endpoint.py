"""The authorization endpoint over HTTP."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ingest.authorize.decisions import FallbackReason, PolicyResult
from ingest.authorize.response_writer import ResponseWriter
from ingest.wire.authorization.request import Allowed, Decision, WireFormat

PATH = "/plugsurfing/authorizations"
OCPI = "/ocpi/2.2.1/tokens/0414DA/authorize"
BLOCKED = PolicyResult(Decision(Allowed.BLOCKED, "Ask your fleet.", "blocked by hand"), "by_key")


def test_without_a_decision_the_driver_may_charge(running):
    response = running.post(keyIdentifier="0414DA")
    assert (response.status_code, response.json()) == (200, {"allowed": "ALLOWED"})


def test_a_policys_decision_is_the_response(running):
    running.evaluator.result_of = lambda _request: BLOCKED
    response = running.post(keyIdentifier="0414DA", countryCode="NL", colour="blue")
    assert response.json() == {"allowed": "BLOCKED", "info": "Ask your fleet."}
    (request,) = running.evaluator.requests
    assert (request.key, request.country_code, request.document["colour"]) == ("0414DA", "NL", "blue")


def test_the_same_policies_answer_in_ocpis_format(running):
    running.evaluator.result_of = lambda _request: BLOCKED
    response = running.client.post(
        OCPI,
        params={"type": "RFID"},
        json={"location_id": "LOC1", "evse_uids": ["3256"]},
        headers={"Authorization": "Token YS1zZWNyZXQ=", "X-Request-ID": "r-1", "X-Correlation-ID": "c-1"},
    )
    content = response.json()
    assert (response.status_code, content["status_code"], content["status_message"]) == (200, 1000, "Success")
    assert content["timestamp"].endswith("Z")
    assert content["data"]["allowed"] == "BLOCKED"
    assert content["data"]["token"]["uid"] == "0414DA"
    assert content["data"]["info"] == {"language": "en", "text": "Ask your fleet."}
    assert (response.headers["x-request-id"], response.headers["x-correlation-id"]) == ("r-1", "c-1")
    (request,) = running.evaluator.requests
    assert (request.form, request.key, request.location_id) == (WireFormat.OCPI, "0414DA", "LOC1")


def test_an_ocpi_request_needs_no_body(running):
    response = running.client.post(OCPI)
    assert response.json()["data"]["allowed"] == "ALLOWED"


@pytest.mark.parametrize("uid", ["%0A", "a%0Ab", "a%2Fb", "%00", "%FF", "%20"])
def test_there_is_a_decision_for_any_uid(running, uid):
    response = running.client.post(f"/ocpi/2.2.1/tokens/{uid}/authorize")
    assert (response.status_code, response.json()["data"]["allowed"]) == (200, "ALLOWED")


def test_the_reference_of_an_ocpi_response_is_the_id_of_its_record(running):
    reference = running.client.post(OCPI).json()["data"]["authorization_reference"]
    assert [record.id for record in running.records()] == [reference]


@pytest.mark.parametrize("headers", [[], [b"Authorization: a-secret"] * 2, [b"Authorization: a-s\xc3\xa9cret"]])
def test_without_valid_credentials_the_response_is_403_and_no_policy_is_called(running, headers):
    raw = b"".join(header + b"\r\n" for header in headers)
    status, content = running.post_raw(b"Content-Length: 2\r\n\r\n{}", headers=raw)
    assert (status, content) == (403, {"error": "This request could not be verified."})
    assert running.evaluator.requests == []


def test_ocpi_gets_401_in_its_envelope(running):
    response = running.client.post(OCPI, headers={"Authorization": "Token d3Jvbmc="})
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Token")
    assert response.json()["status_code"] == 2000
    assert "data" not in response.json()


def test_other_paths_and_methods_are_refused(running):
    assert running.client.get(PATH).status_code == 405
    assert running.client.put(OCPI).status_code == 405
    assert running.client.post("/plugsurfing/events").status_code == 404
    assert running.client.post("/ocpi/2.2.1/tokens/x").status_code == 404


def test_a_body_that_is_too_long_or_encoded_is_refused(start):
    running = start(max_body_bytes=100)
    assert running.client.post(PATH, content=b"x" * 101).status_code == 413
    assert running.client.post(PATH, content=iter([b"x" * 60] * 2)).status_code == 413
    assert running.client.post(PATH, content=b"{}", headers={"Content-Encoding": "gzip"}).status_code == 415
    assert running.client.post(OCPI, content=b"x" * 101).json()["status_code"] == 2000


def test_leading_zeros_of_a_length_do_not_count(start):
    running = start(max_body_bytes=100)
    for zeros in (30, 5000):
        assert running.post_raw(b"Content-Length: %s2\r\n\r\n{}" % (b"0" * zeros))[0] == 200
        assert running.post_raw(b"Content-Length: %s101\r\n\r\n" % (b"0" * zeros))[0] == 413
        assert running.post_raw(b"Content-Length: %s \r\n\r\n" % (b"0" * zeros))[0] == 200


def test_a_body_that_cannot_be_parsed_gets_the_answer_on_failure(start):
    running = start(authorize_on_failure="NOT_ALLOWED")
    response = running.client.post(PATH, content=b"nonsense")
    assert (response.status_code, response.json()) == (200, {"allowed": "NOT_ALLOWED"})
    (record,) = running.records()
    assert (record.failure, record.policy) == (FallbackReason.UNREADABLE, None)
    assert running.evaluator.requests == []


def test_a_slow_body_is_answered_at_the_deadline(start):
    running = start(authorize_timeout="500ms", authorize_on_failure="BLOCKED")
    started_at = time.monotonic()
    status, content = running.post_raw(b"Content-Length: 9\r\n\r\n", b'{"a"')
    assert time.monotonic() - started_at < 10
    assert (status, content) == (200, {"allowed": "BLOCKED"})
    assert running.records()[0].failure is FallbackReason.SLOW_BODY


def test_an_evaluator_that_ignores_the_deadline_gets_the_answer_on_failure(start):
    running = start(authorize_timeout="300ms", authorize_on_failure="EXPIRED")
    running.evaluator.delay = 60
    response = running.post(keyIdentifier="0414DA")
    assert response.json() == {"allowed": "EXPIRED"}
    (record,) = running.records()
    assert record.failure is FallbackReason.TIMEOUT
    assert record.latency.total_seconds() < 10


def test_an_evaluator_that_raises_gets_the_answer_on_failure(start):
    running = start(authorize_on_failure="EXPIRED")

    def breaks(request):
        raise RuntimeError(f"the key is {request.key}")

    running.evaluator.result_of = breaks
    with capture_logs() as logs:
        response = running.post(keyIdentifier="0414DA")
        running.records()
    assert (response.status_code, response.json()) == (200, {"allowed": "EXPIRED"})
    assert "0414DA" not in str(logs)
    assert running.records()[0].failure is FallbackReason.CRASHED


def test_a_repeated_request_gets_the_same_response_without_another_evaluation(running):
    results = iter([BLOCKED, PolicyResult()])
    running.evaluator.result_of = lambda _request: next(results)
    first, second = (running.post(keyIdentifier="0414DA") for _ in range(2))
    assert first.content == second.content
    assert len(running.evaluator.requests) == 1
    one, two = running.records(2)
    assert (one.repeats, two.repeats, two.policy) == (None, one.id, "by_key")
    assert running.post(keyIdentifier="0414DA", sessionId="s2").json() == {"allowed": "ALLOWED"}


def test_a_repeated_ocpi_request_gets_the_first_reference(running):
    references = {running.client.post(OCPI).json()["data"]["authorization_reference"] for _ in range(3)}
    assert len(references) == 1


def test_concurrent_equal_requests_are_evaluated_once(running):
    running.evaluator.delay = 0.3
    with ThreadPoolExecutor(4) as threads:
        responses = list(threads.map(lambda _: running.post(keyIdentifier="0414DA").json(), range(4)))
    assert responses == [{"allowed": "ALLOWED"}] * 4
    assert len(running.evaluator.requests) == 1


def test_a_failure_is_not_repeated(running):
    results = iter([PolicyResult(policy="by_key", failure=FallbackReason.RAISED, error="KeyError"), BLOCKED])
    running.evaluator.result_of = lambda _request: next(results)
    assert running.post(keyIdentifier="0414DA").json()["allowed"] == "ALLOWED"
    assert running.post(keyIdentifier="0414DA").json()["allowed"] == "BLOCKED"


def test_every_response_is_recorded_with_its_request_and_result(running):
    running.evaluator.result_of = lambda _request: BLOCKED
    running.post(keyIdentifier="0414DA", referenceId="r1")
    (record,) = running.records()
    assert (record.decision, record.policy, record.failure) == (BLOCKED.decision, "by_key", None)
    assert record.request.reference_id == "r1"
    assert record.latency.total_seconds() > 0
    assert record.request.received_at <= record.answered_at
    assert len(record.id) == 32


def test_the_log_has_no_key_and_no_body(running):
    with capture_logs() as logs:
        running.post(keyIdentifier="0414DA", userId="driver-7")
        running.client.post(OCPI)
        running.client.post(PATH, headers={"Authorization": "a-wrong-secret"})
        running.records(2)
    names = [line["event"] for line in logs]
    assert names.count("authorization.answered") == 2
    assert names.count("authorization.refused") == 1
    assert not [word for word in ("0414DA", "driver-7", "secret") if word in str(logs)]


def test_an_unexpected_error_is_503_and_logs_neither_key_nor_path(running, monkeypatch):
    def breaks(_self, record):
        raise KeyError(record.request.key)

    monkeypatch.setattr(ResponseWriter, "success", breaks)
    with capture_logs() as logs:
        responses = [running.client.post(OCPI), running.post(keyIdentifier="0414DA")]
    for response in responses:
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert response.json() == {"error": "The request cannot be answered right now."}
    assert [(line["event"], line["route"], line["error"]) for line in logs] == [
        ("request.failed", "ocpi", "KeyError"),
        ("request.failed", "plugsurfing", "KeyError"),
    ]
    assert not [word for word in ("0414DA", "/2.2.1/", PATH) if word in str(logs)]


def test_credentials_change_with_their_file(start, tmp_path, eventually):
    file = tmp_path / "credentials"
    file.write_text("the-first\n")
    running = start(authorize_credentials=None, authorize_credentials_file=file)

    def status(value):
        return running.client.post(PATH, json={}, headers={"Authorization": value}).status_code

    assert (status("the-first"), status("the-second")) == (200, 403)
    file.write_text("the-second\n")
    eventually(lambda: status("the-second") == 200)
    assert status("the-first") == 403


@how(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(body=st.binary() | st.text().map(lambda text: json.dumps({"keyIdentifier": text}).encode()), ocpi=st.booleans())
def test_there_is_a_decision_for_any_body(running, body, ocpi):
    response = running.client.post(OCPI if ocpi else PATH, content=body)
    assert response.status_code == 200
    assert (response.json()["data"] if ocpi else response.json())["allowed"] == "ALLOWED"


def test_a_client_that_disconnects_does_not_affect_others(running):
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(
            b"POST /plugsurfing/authorizations HTTP/1.1\r\nHost: x\r\nAuthorization: a-secret\r\n"
            b"Content-Length: 9\r\n\r\n{"
        )
    assert running.post(keyIdentifier="0414DA").status_code == 200


def test_the_evaluator_stops_with_the_server(running, serving):
    serving.stop()
    assert running.evaluator.stopped
    with pytest.raises(httpx.ConnectError):
        running.post()
