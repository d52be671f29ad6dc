import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ingest.authorize.decision_record import FallbackReason
from ingest.authorize.evaluator import PolicyResult
from ingest.authorize.http_protocol import TimedHttpProtocol
from ingest.authorize.responses import ResponseWriter
from ingest.server import http_protocol
from ingest.wire.authorization.request import Allowed, Decision, WireFormat

ASK = "/plugsurfing/authorizations"
OCPI = "/ocpi/2.2.1/tokens/0414DA/authorize"
BLOCKED = PolicyResult(Decision(Allowed.BLOCKED, "Ask your fleet.", "blocked by hand"), "by_key")


def wire(lane, *pieces, pause=0.0, headers=b"Authorization: a-secret\r\n"):
    """Say what no client library would; give the status and the decoded body."""
    with socket.create_connection(("127.0.0.1", lane.port), timeout=30) as connection:
        connection.sendall(b"POST /plugsurfing/authorizations HTTP/1.1\r\nHost: x\r\n" + headers + pieces[0])
        for piece in pieces[1:]:
            time.sleep(pause)
            connection.sendall(piece)
        answers = connection.makefile("rb")
        status = int(answers.readline().split()[1])
        length = 0
        while (line := answers.readline()) not in {b"\r\n", b""}:
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return status, json.loads(answers.read(length))


def test_nobody_has_anything_to_say_so_the_driver_may_charge(lane):
    answer = lane.ask(keyIdentifier="0414DA")
    assert (answer.status_code, answer.json()) == (200, {"allowed": "ALLOWED"})


def test_a_policys_decision_is_the_answer(lane):
    lane.judges.rule = lambda _question: BLOCKED
    answer = lane.ask(keyIdentifier="0414DA", countryCode="NL", colour="blue")
    assert answer.json() == {"allowed": "BLOCKED", "info": "Ask your fleet."}
    (question,) = lane.judges.questions
    assert (question.key, question.country_code, question.document["colour"]) == ("0414DA", "NL", "blue")


def test_the_same_policies_answer_in_ocpis_form(lane):
    lane.judges.rule = lambda _question: BLOCKED
    answer = lane.client.post(
        OCPI,
        params={"type": "RFID"},
        json={"location_id": "LOC1", "evse_uids": ["3256"]},
        headers={"Authorization": "Token YS1zZWNyZXQ=", "X-Request-ID": "r-1", "X-Correlation-ID": "c-1"},
    )
    told = answer.json()
    assert (answer.status_code, told["status_code"], told["status_message"]) == (200, 1000, "Success")
    assert told["timestamp"].endswith("Z")
    assert told["data"]["allowed"] == "BLOCKED"
    assert told["data"]["token"]["uid"] == "0414DA"
    assert told["data"]["info"] == {"language": "en", "text": "Ask your fleet."}
    assert (answer.headers["x-request-id"], answer.headers["x-correlation-id"]) == ("r-1", "c-1")
    (question,) = lane.judges.questions
    assert (question.form, question.key, question.location_id) == (WireFormat.OCPI, "0414DA", "LOC1")


def test_ocpis_question_needs_no_body(lane):
    answer = lane.client.post(OCPI)
    assert answer.json()["data"]["allowed"] == "ALLOWED"


@pytest.mark.parametrize("uid", ["%0A", "a%0Ab", "a%2Fb", "%00", "%FF", "%20"])
def test_whatever_a_uid_is_there_is_a_decision(lane, uid):
    answer = lane.client.post(f"/ocpi/2.2.1/tokens/{uid}/authorize")
    assert (answer.status_code, answer.json()["data"]["allowed"]) == (200, "ALLOWED")


def test_the_reference_of_ocpis_answer_is_that_of_its_record(lane):
    reference = lane.client.post(OCPI).json()["data"]["authorization_reference"]
    assert [verdict.id for verdict in lane.verdicts()] == [reference]


@pytest.mark.parametrize("headers", [[], [b"Authorization: a-secret"] * 2, [b"Authorization: a-s\xc3\xa9cret"]])
def test_without_the_right_credentials_the_answer_is_403_and_no_policy_is_asked(lane, headers):
    raw = b"".join(header + b"\r\n" for header in headers)
    status, told = wire(lane, b"Content-Length: 2\r\n\r\n{}", headers=raw)
    assert (status, told) == (403, {"error": "This request could not be verified."})
    assert lane.judges.questions == []


def test_ocpi_wants_401_in_its_envelope(lane):
    answer = lane.client.post(OCPI, headers={"Authorization": "Token d3Jvbmc="})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Token")
    assert answer.json()["status_code"] == 2000
    assert "data" not in answer.json()


def test_other_paths_and_methods_are_refused(lane):
    assert lane.client.get(ASK).status_code == 405
    assert lane.client.put(OCPI).status_code == 405
    assert lane.client.post("/plugsurfing/events").status_code == 404
    assert lane.client.post("/ocpi/2.2.1/tokens/x").status_code == 404


def test_a_body_that_is_too_long_or_encoded_is_refused_unread(open_lane):
    lane = open_lane(max_body_bytes=100)
    assert lane.client.post(ASK, content=b"x" * 101).status_code == 413
    assert lane.client.post(ASK, content=iter([b"x" * 60] * 2)).status_code == 413
    assert lane.client.post(ASK, content=b"{}", headers={"Content-Encoding": "gzip"}).status_code == 415
    assert lane.client.post(OCPI, content=b"x" * 101).json()["status_code"] == 2000


def test_zeros_before_a_length_are_none_of_its_digits(open_lane):
    lane = open_lane(max_body_bytes=100)
    for zeros in (30, 5000):
        assert wire(lane, b"Content-Length: %s2\r\n\r\n{}" % (b"0" * zeros))[0] == 200
        assert wire(lane, b"Content-Length: %s101\r\n\r\n" % (b"0" * zeros))[0] == 413
        assert wire(lane, b"Content-Length: %s \r\n\r\n" % (b"0" * zeros))[0] == 200


def test_a_body_that_cannot_be_read_gets_the_answer_of_a_failure(open_lane):
    lane = open_lane(authorize_on_failure="NOT_ALLOWED")
    answer = lane.client.post(ASK, content=b"nonsense")
    assert (answer.status_code, answer.json()) == (200, {"allowed": "NOT_ALLOWED"})
    (verdict,) = lane.verdicts()
    assert (verdict.failure, verdict.policy) == (FallbackReason.UNREADABLE, None)
    assert lane.judges.questions == []


def test_a_slow_body_is_answered_at_the_deadline(open_lane):
    lane = open_lane(authorize_timeout="500ms", authorize_on_failure="BLOCKED")
    begun = time.monotonic()
    status, told = wire(lane, b"Content-Length: 9\r\n\r\n", b'{"a"')
    assert time.monotonic() - begun < 10
    assert (status, told) == (200, {"allowed": "BLOCKED"})
    assert lane.verdicts()[0].failure is FallbackReason.SLOW_BODY


def test_the_time_counts_from_the_first_byte_of_the_head(open_lane):
    lane = open_lane(authorize_timeout="20s")
    wire(lane, b"X: ", b"y\r\n", b"Content-Length: 2\r\n\r\n{}", pause=0.2)
    assert lane.verdicts()[0].latency.total_seconds() > 0.2  # of 0.4, as a busy machine hears the first byte late


def test_a_head_that_is_not_complete_in_time_gets_no_answer(open_lane, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 60.0)
    lane = open_lane(authorize_timeout="300ms")
    question = b"POST /plugsurfing/authorizations HTTP/1.1\r\nAuthorization: a-secret\r\nContent-Length: 2\r\n\r\n{}"
    for before in (b"", question):
        with socket.create_connection(("127.0.0.1", lane.port), timeout=30) as connection:
            connection.sendall(before + question[:60])
            told = b"".join(iter(lambda talker=connection: talker.recv(4096), b""))
        assert told.count(b"HTTP/1.1 200") == before.count(b"POST")
    assert len(lane.verdicts()) == 1
    numbers = lane.client.get("/metrics").text
    assert 'webhooks_authorize_requests_refused_total{reason="LateHead"} 2.0' in numbers


def test_a_head_that_a_busy_loop_hears_too_late_is_counted_once(lane, monkeypatch):
    begins, has_begun = TimedHttpProtocol.on_message_begin, threading.Event()

    def begins_long_ago(self):
        begins(self)
        now, timer = self.loop.time(), self._head_timer
        self._head_timer = SimpleNamespace(when=lambda: now, cancel=timer.cancel)
        has_begun.set()

    with monkeypatch.context() as patched:
        patched.setattr(TimedHttpProtocol, "on_message_begin", begins_long_ago)
        with socket.create_connection(("127.0.0.1", lane.port), timeout=30) as connection:
            connection.sendall(b"POST /plugsurfing/authorizations HTTP/1.1\r\nHost: x")
            assert has_begun.wait(10)
            connection.sendall(b"\r\nAuthorization: a-secret\r\n\r\n")
            assert connection.recv(1) == b""
    assert 'refused_total{reason="LateHead"} 1.0' in lane.client.get("/metrics").text
    assert lane.judges.questions == []


def test_who_connects_and_says_nothing_is_no_late_head(open_lane, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.1)
    lane = open_lane()
    with socket.create_connection(("127.0.0.1", lane.port), timeout=30) as connection:
        assert connection.recv(1) == b""
    assert "LateHead" not in lane.client.get("/metrics").text


def test_judges_that_forget_the_time_do_not_break_the_deadline(open_lane):
    lane = open_lane(authorize_timeout="300ms", authorize_on_failure="EXPIRED")
    lane.judges.takes = 60
    answer = lane.ask(keyIdentifier="0414DA")
    assert answer.json() == {"allowed": "EXPIRED"}
    (verdict,) = lane.verdicts()
    assert verdict.failure is FallbackReason.TIMEOUT
    assert verdict.latency.total_seconds() < 10


def test_judges_that_break_do_not_break_the_answer(open_lane):
    lane = open_lane(authorize_on_failure="EXPIRED")

    def breaks(question):
        raise RuntimeError(f"the key is {question.key}")

    lane.judges.rule = breaks
    with capture_logs() as logs:
        answer = lane.ask(keyIdentifier="0414DA")
        lane.verdicts()
    assert (answer.status_code, answer.json()) == (200, {"allowed": "EXPIRED"})
    assert "0414DA" not in str(logs)
    assert lane.verdicts()[0].failure is FallbackReason.CRASHED


def test_the_same_request_gets_the_same_answer_and_no_policy_is_asked_again(lane):
    rulings = iter([BLOCKED, PolicyResult()])
    lane.judges.rule = lambda _question: next(rulings)
    first, second = (lane.ask(keyIdentifier="0414DA") for _ in range(2))
    assert first.content == second.content
    assert len(lane.judges.questions) == 1
    one, two = lane.verdicts(2)
    assert (one.repeats, two.repeats, two.policy) == (None, one.id, "by_key")
    assert lane.ask(keyIdentifier="0414DA", sessionId="s2").json() == {"allowed": "ALLOWED"}


def test_a_repeat_has_the_reference_of_the_first_answer_in_ocpis_form(lane):
    references = {lane.client.post(OCPI).json()["data"]["authorization_reference"] for _ in range(3)}
    assert len(references) == 1


def test_the_same_request_at_the_same_time_is_asked_once(lane):
    lane.judges.takes = 0.3
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: lane.ask(keyIdentifier="0414DA").json(), range(4)))
    assert answers == [{"allowed": "ALLOWED"}] * 4
    assert len(lane.judges.questions) == 1


def test_a_failure_is_not_repeated(lane):
    rulings = iter([PolicyResult(policy="by_key", failure=FallbackReason.RAISED, error="KeyError"), BLOCKED])
    lane.judges.rule = lambda _question: next(rulings)
    assert lane.ask(keyIdentifier="0414DA").json()["allowed"] == "ALLOWED"
    assert lane.ask(keyIdentifier="0414DA").json()["allowed"] == "BLOCKED"


def test_every_answer_is_recorded_with_what_it_came_of(lane):
    lane.judges.rule = lambda _question: BLOCKED
    lane.ask(keyIdentifier="0414DA", referenceId="r1")
    (verdict,) = lane.verdicts()
    assert (verdict.decision, verdict.policy, verdict.failure) == (BLOCKED.decision, "by_key", None)
    assert verdict.request.reference_id == "r1"
    assert verdict.latency.total_seconds() > 0
    assert verdict.request.received_at <= verdict.answered_at
    assert len(verdict.id) == 32


def test_a_log_line_holds_no_key_and_no_body(lane):
    with capture_logs() as logs:
        lane.ask(keyIdentifier="0414DA", userId="driver-7")
        lane.client.post(OCPI)
        lane.client.post(ASK, headers={"Authorization": "a-wrong-secret"})
        lane.verdicts(2)
    names = [line["event"] for line in logs]
    assert names.count("authorization.answered") == 2
    assert names.count("authorization.refused") == 1
    assert not [word for word in ("0414DA", "driver-7", "secret") if word in str(logs)]


def test_a_door_that_breaks_answers_503_and_logs_neither_key_nor_path(lane, monkeypatch):
    def breaks(_self, verdict):
        raise KeyError(verdict.request.key)

    monkeypatch.setattr(ResponseWriter, "success", breaks)
    with capture_logs() as logs:
        answers = [lane.client.post(OCPI), lane.ask(keyIdentifier="0414DA")]
    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json() == {"error": "The request cannot be answered right now."}
    assert [(line["event"], line["route"], line["error"]) for line in logs] == [
        ("request.failed", "ocpi", "KeyError"),
        ("request.failed", "plugsurfing", "KeyError"),
    ]
    assert not [word for word in ("0414DA", "/2.2.1/", ASK) if word in str(logs)]


def test_one_may_look_at_it(lane):
    lane.ask(keyIdentifier="0414DA")
    lane.verdicts()
    assert lane.client.get("/healthz").status_code == 200
    ready = lane.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "processes": {"wanted": 1, "ready": 1},
        "spared_policies": ["by_key"],
    }
    numbers = lane.client.get("/metrics").text
    assert 'webhooks_authorize_decisions_total{allowed="ALLOWED",policy="none"} 1.0' in numbers
    assert "webhooks_authorize_seconds_count 1.0" in numbers
    assert "webhooks_authorize_processes_ready 1.0" in numbers


def test_it_is_not_ready_while_no_policy_can_be_asked(lane):
    lane.judges.ready = 0
    assert lane.client.get("/readyz").status_code == 503


def test_credentials_change_with_their_file(open_lane, tmp_path, eventually):
    file = tmp_path / "credentials"
    file.write_text("the-first\n")
    lane = open_lane(authorize_credentials=None, authorize_credentials_file=file)

    def status(value):
        return lane.client.post(ASK, json={}, headers={"Authorization": value}).status_code

    assert (status("the-first"), status("the-second")) == (200, 403)
    file.write_text("the-second\n")
    eventually(lambda: status("the-second") == 200)
    assert status("the-first") == 403


@how(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(body=st.binary() | st.text().map(lambda text: json.dumps({"keyIdentifier": text}).encode()), ocpi=st.booleans())
def test_whatever_the_body_is_there_is_a_decision(lane, body, ocpi):
    answer = lane.client.post(OCPI if ocpi else ASK, content=body)
    assert answer.status_code == 200
    assert (answer.json()["data"] if ocpi else answer.json())["allowed"] == "ALLOWED"


def test_a_client_that_hangs_up_harms_nobody(lane):
    with socket.create_connection(("127.0.0.1", lane.port)) as connection:
        connection.sendall(
            b"POST /plugsurfing/authorizations HTTP/1.1\r\nHost: x\r\nAuthorization: a-secret\r\n"
            b"Content-Length: 9\r\n\r\n{"
        )
    assert lane.ask(keyIdentifier="0414DA").status_code == 200


def test_judges_are_stopped_with_the_server(lane, serving):
    serving.stop()
    assert lane.judges.stopped
    with pytest.raises(httpx.ConnectError):
        lane.ask()
