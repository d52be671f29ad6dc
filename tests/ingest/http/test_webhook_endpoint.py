import asyncio
import contextlib
import gzip
import itertools
import json
import socket
import threading
import time

import httpx
import pytest
from structlog.testing import capture_logs

from ingest.config.settings import load_settings
from ingest.http import health, responses, webhook_endpoint
from ingest.http.app import create_app
from ingest.inbox import inbox
from ingest.inbox.quarantine import Quarantine
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.wire.signature import SigningKeys, sign

EVENTS, CDRS = "/plugsurfing/events", "/plugsurfing/cdrs"
KEY = b"the-current-key"
NUMBERS = itertools.count()


def body_of(number=None):
    session = f"s{next(NUMBERS) if number is None else number}"
    payload = {"userId": "u", "sessionId": session, "timestamp": "2025-06-12T10:56:51Z"}
    return json.dumps({"event": "SESSION_STARTED", "payload": payload}).encode()


def signed(body, key=KEY):
    return {"X-HMAC-SHA512-Signature": sign(body, key)}


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    monkeypatch.setattr(responses, "DRAIN_TIME", 0.05)
    monkeypatch.setattr(health, "CACHE_FOR", 0.0)


@pytest.fixture
def served(tmp_path, serving):
    """Serve a node with these settings; returns its port."""

    def serve(**settings):
        given = {"data_dir": tmp_path, "plugsurfing_hmac_current": KEY.decode(), **settings}
        return serving(create_app(load_settings(**given)))

    return serve


@pytest.fixture
def client(served):
    with httpx.Client(base_url=f"http://127.0.0.1:{served()}") as client:
        yield client


@pytest.fixture
def kept(tmp_path):
    """Read the bodies in the inbox file."""

    def read():
        with contextlib.closing(open_inbox_file(tmp_path / FILE_NAME)) as file:
            return [body for (body,) in file.execute("SELECT body FROM deliveries WHERE body IS NOT NULL ORDER BY seq")]

    return read


class Wire:
    """A connection on which a test says what no client library would."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.answers = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.answers.close()
        self.socket.close()

    def say(self, *parts):
        self.socket.sendall(b"".join(parts))

    def head(self, *headers, path=EVENTS):
        lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]
        self.say("\r\n".join(lines).encode("latin-1"))

    def answer(self):
        """Read one answer: status, headers, body."""
        status = int(self.answers.readline().split()[1])
        headers = {}
        while line := self.answers.readline().strip():
            name, value = line.split(b": ", 1)
            headers[name.decode()] = value.decode()
        return status, headers, self.answers.read(int(headers["content-length"]))

    def is_closed(self):
        return self.answers.read() == b""


@pytest.fixture
def wire(served):
    """Open a connection to a node."""
    with contextlib.ExitStack() as open_wires:
        yield lambda **settings: open_wires.enter_context(Wire(served(**settings)))


def signature(body):
    return f"X-HMAC-SHA512-Signature: {sign(body, KEY)}"


def test_what_is_kept_is_answered_with_its_id(client, kept):
    body = body_of()
    first = client.post(EVENTS, content=body, headers=signed(body))
    again = client.post(EVENTS, content=body, headers=signed(body))

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.headers["content-type"] == "application/json"
    assert len(first.json()["id"]) == 32
    assert first.json()["duplicate"] is False
    assert again.json() == {"id": first.json()["id"], "duplicate": True}
    assert kept() == [body]


def test_a_slash_at_the_end_costs_no_event(client, kept):
    for path in (f"{EVENTS}/", f"{CDRS}/"):
        body = body_of()
        assert client.post(path, content=body, headers=signed(body)).status_code == 200
    assert len(kept()) == 2


def test_the_same_bytes_on_another_url_are_another_delivery(client):
    body = body_of()
    ids = {client.post(path, content=body, headers=signed(body)).json()["id"] for path in (EVENTS, CDRS)}
    assert len(ids) == 2


def test_what_is_well_signed_is_never_refused_for_its_shape(client, kept):
    bodies = [b"", b"not json", b"\xff\xfe\x00", b"[" * 100_000, b'{"event": "NEVER_HEARD_OF"}', b"\x80\x80"]
    for body in bodies:
        assert client.post(EVENTS, content=body, headers=signed(body)).status_code == 200
    assert kept() == bodies


def test_a_request_from_another_address_is_refused_without_detail_and_let_in_once_it_is_listed(
    served, tmp_path, kept, eventually
):
    body = body_of()
    port = served(plugsurfing_sources="192.0.2.7")
    # The header of a stranger says nothing.
    headers = {**signed(body), "X-Forwarded-For": "192.0.2.7"}
    refused = [httpx.post(f"http://127.0.0.1:{port}{path}", content=body, headers=headers) for path in (EVENTS, CDRS)]
    assert {(answer.status_code, answer.json()["error"]) for answer in refused} == {
        (403, "This request could not be verified.")
    }

    def quarantine(**settings):
        return Quarantine(tmp_path / FILE_NAME, load_settings(data_dir=tmp_path, **settings))

    eventually(lambda: len(quarantine().list()) == len(refused))
    assert {(one.sender, one.reason) for one in quarantine().list()} == {
        ("127.0.0.1", "It came from an address that is not in PLUGSURFING_SOURCES.")
    }
    keys = SigningKeys(current=KEY)
    assert not any(one.kept for one in quarantine(plugsurfing_sources="192.0.2.7").reverify(keys))
    assert kept() == []
    assert all(one.kept for one in quarantine(plugsurfing_sources="192.0.2.7, 127.0.0.1").reverify(keys))
    assert kept() == [body, body]


def test_behind_a_proxy_the_sender_is_whom_the_proxy_names(served, kept):
    body = body_of()
    port = served(plugsurfing_sources="192.0.2.7", forwarded_by="127.0.0.1")
    statuses = [
        httpx.post(
            f"http://127.0.0.1:{port}{EVENTS}", content=body, headers={**signed(body), "X-Forwarded-For": said}
        ).status_code
        for said in ("192.0.2.7, 203.0.113.9", "203.0.113.9, 192.0.2.7")
    ]
    assert statuses == [403, 200]
    assert kept() == [body]


def test_what_proves_nothing_is_refused_without_detail_and_put_in_quarantine(client, tmp_path, eventually):
    proofs = (
        {},
        {"X-HMAC-SHA512-Signature": ""},
        {"X-HMAC-SHA512-Signature": "\N{LATIN SMALL LETTER E WITH ACUTE}".encode()},
        signed(b"another body"),
        signed(b"{}", b"another key"),
        [(name, value) for name, value in signed(b"{}").items() for _ in range(2)],
    )
    for headers in proofs:
        answer = client.post(EVENTS, content=b"{}", headers=headers)
        assert answer.status_code == 403
        assert answer.json() == {"error": "This request could not be verified."}

    quarantine = Quarantine(tmp_path / FILE_NAME, load_settings(data_dir=tmp_path))
    eventually(lambda: [request.body for request in quarantine.list()] == [b"{}"] * len(proofs))
    assert f'webhooks_requests_refused_total{{reason="NotAuthentic"}} {len(proofs)}.0' in client.get("/metrics").text


def test_the_authorization_is_asked_for_beside_the_signature(served):
    port = served(plugsurfing_authorization="Bearer one\nBearer two")
    body = body_of()
    asked = {
        value: httpx.post(
            f"http://127.0.0.1:{port}{EVENTS}", content=body, headers={**signed(body), "Authorization": value}
        ).status_code
        for value in ("Bearer one", "Bearer two", "Bearer three")
    }
    assert asked == {"Bearer one": 200, "Bearer two": 200, "Bearer three": 403}


def test_a_long_body_is_kept_to_the_last_byte(client, kept):
    body = b'"' + b"x" * (1_048_576 - 2) + b'"'
    assert client.post(EVENTS, content=body, headers=signed(body)).status_code == 200
    assert kept() == [body]


def test_a_body_that_comes_in_many_pieces_is_put_together(wire, kept):
    body = body_of()
    sender = wire()
    sender.head("Transfer-Encoding: chunked", signature(body))
    for at in range(len(body)):
        sender.say(b"1\r\n", body[at : at + 1], b"\r\n")
        if at % 10 == 0:
            time.sleep(0.001)  # so that some of them come alone
    sender.say(b"0\r\n\r\n")

    assert sender.answer()[0] == 200
    assert kept() == [body]


def test_a_body_over_the_limit_is_refused_before_it_is_read(wire, kept):
    sender = wire(max_body_bytes=1000)
    sender.head("Content-Length: 1001", signature(b""))

    status, headers, body = sender.answer()
    assert (status, headers["connection"]) == (413, "close")
    assert json.loads(body) == {"error": "The body is too large."}
    assert sender.is_closed()
    assert kept() == []


def test_a_body_that_never_ends_is_refused_as_soon_as_it_is_over_the_limit(wire, kept):
    sender = wire(max_body_bytes=1000)
    sender.head("Transfer-Encoding: chunked", signature(b""))
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 100_000_000:
            sender.say(b"1000\r\n", b"x" * 0x1000, b"\r\n")
            sent += 0x1000

    assert sent < 50_000_000
    assert sender.answer()[0] == 413
    assert kept() == []


def test_a_sender_who_first_sends_all_and_then_listens_hears_why_it_was_refused(client):
    answer = client.post(EVENTS, content=b"x" * 3_000_000, headers=signed(b""))

    assert answer.status_code == 413
    assert client.get("/healthz").status_code == 200


def test_the_limit_itself_is_allowed(served, kept):
    port = served(max_body_bytes=1000)
    url = f"http://127.0.0.1:{port}{EVENTS}"
    exact, over = b"x" * 1000, b"x" * 1001
    assert httpx.post(url, content=exact, headers=signed(exact)).status_code == 200
    assert httpx.post(url, content=over, headers=signed(over)).status_code == 413
    assert kept() == [exact]


def test_a_length_with_more_zeros_before_it_than_python_reads_is_a_length(wire, kept):
    body = body_of()
    sender = wire()
    with capture_logs() as logs:
        sender.head(f"Content-Length: {'0' * 5000}{len(body)}", signature(body))
        sender.say(body)
        assert sender.answer()[0] == 200
    assert kept() == [body]
    assert [line for line in logs if line["log_level"] == "error"] == []


def test_an_encoded_body_is_refused(client, kept):
    body = gzip.compress(body_of())
    for encoding in ("gzip", "br", "identity, gzip", "x"):
        answer = client.post(EVENTS, content=body, headers={**signed(body), "Content-Encoding": encoding})
        assert answer.status_code == 415
        assert answer.json() == {"error": "A Content-Encoding is not supported."}
    assert kept() == []


def test_an_encoding_that_is_none_is_none(client):
    for encoding in ("identity", "", "Identity"):
        body = body_of()
        headers = {**signed(body), "Content-Encoding": encoding}
        assert client.post(EVENTS, content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("part", [b"", b'{"half'])
def test_a_body_that_is_not_complete_in_time_is_given_up(wire, kept, part):
    sender = wire(body_timeout="100ms")
    begun = time.monotonic()
    sender.head("Content-Length: 100", signature(b""))
    sender.say(part)

    status, headers, body = sender.answer()
    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(body) == {"error": "The body did not arrive in time."}
    assert time.monotonic() - begun > 0.09
    assert sender.is_closed()
    assert kept() == []


def test_a_body_that_drips_is_given_up_too(wire):
    sender = wire(body_timeout="100ms")
    sender.head("Content-Length: 1000", signature(b""))
    ended = threading.Event()

    def drip():
        with contextlib.suppress(OSError):
            while not ended.wait(0.01):
                sender.say(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    assert sender.answer()[0] == 408
    ended.set()
    dripping.join()


def test_a_slow_sender_slows_only_itself(wire, served):
    port = served(body_timeout="10m")
    with Wire(port) as slow:
        slow.head("Content-Length: 100", signature(b""))
        begun = time.monotonic()
        for _ in range(20):
            body = body_of()
            assert httpx.post(f"http://127.0.0.1:{port}{EVENTS}", content=body, headers=signed(body)).status_code == 200
        assert time.monotonic() - begun < 60


def test_a_sender_who_hangs_up_in_the_middle_leaves_nothing_behind(served, kept, eventually):
    port = served()
    with capture_logs() as logs:
        for _ in range(3):
            with Wire(port) as sender:
                sender.head("Content-Length: 100", signature(b""))
                sender.say(b'{"half')
        eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200)
        body = body_of()
        httpx.post(f"http://127.0.0.1:{port}{EVENTS}", content=body, headers=signed(body))
    assert kept() == [body]
    assert [line for line in logs if line["log_level"] == "error"] == []


def test_a_sender_who_says_all_and_hangs_up_is_heard(served, kept, eventually):
    body = body_of()
    with Wire(served()) as sender:
        sender.head(f"Content-Length: {len(body)}", signature(body))
        sender.say(body)
    eventually(lambda: kept() == [body])


def test_a_sender_who_has_no_more_to_say_is_heard(wire, kept):
    """It shuts its half of the connection down, and hears on the other one that the event is kept."""
    body = body_of()
    sender = wire()
    sender.head(f"Content-Length: {len(body)}", signature(body))
    sender.say(body)
    sender.socket.shutdown(socket.SHUT_WR)

    assert sender.answer()[0] == 200
    assert sender.is_closed()
    assert kept() == [body]


def test_half_a_body_from_a_sender_who_has_no_more_to_say_is_nothing(wire, kept):
    sender = wire()
    sender.head("Content-Length: 100", signature(b""))
    sender.say(b'{"half')
    sender.socket.shutdown(socket.SHUT_WR)

    assert sender.is_closed()
    assert kept() == []


def test_requests_in_one_go_are_answered_in_their_order(wire, kept):
    sender = wire()
    bodies = [body_of() for _ in range(20)]
    said = b""
    for body in bodies:
        head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\n{signature(body)}\r\nContent-Length: {len(body)}\r\n\r\n"
        said += head.encode() + body
    sender.say(said, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")

    assert [sender.answer()[0] for _ in range(21)] == [200] * 21
    assert kept() == bodies


def test_a_client_that_would_rather_speak_http_2_is_served_in_http_1(wire, kept):
    """As Java's does where there is no TLS."""
    body = body_of()
    sender = wire()
    for _ in range(2):
        sender.head(
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
            f"Content-Length: {len(body)}",
            signature(body),
        )
        sender.say(body)
        assert sender.answer()[0] == 200
    assert kept() == [body]


def test_whoever_asks_first_is_told_to_go_on(wire, kept):
    body = body_of()
    sender = wire()
    sender.head("Expect: 100-continue", f"Content-Length: {len(body)}", signature(body))
    assert sender.answers.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert sender.answers.readline() == b"\r\n"
    sender.say(body)

    assert sender.answer()[0] == 200
    assert kept() == [body]


def test_only_posts_are_taken(client):
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = client.request(method, EVENTS)
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
        assert method == "HEAD" or answer.json() == {"error": "This method is not allowed here."}


def test_elsewhere_there_is_nothing(client):
    for method in ("GET", "POST"):
        for path in ("/", "/plugsurfing", "/plugsurfing/events/x", "/nowhere", "//", "/%00"):
            answer = client.request(method, path)
            assert answer.status_code == 404
            assert answer.json() == {"error": "There is nothing here."}


def test_when_nothing_can_be_kept_nothing_is_promised(client, tmp_path, monkeypatch):
    def full(_file, _rows):
        raise OSError("No space left on device")

    keeps = inbox.insert_new, inbox.upsert_rows
    for name in ("insert_new", "upsert_rows"):
        monkeypatch.setattr(inbox, name, full)
    body = body_of()
    refused = client.post(EVENTS, content=body, headers=signed(body))
    not_ready = client.get("/readyz")
    for name, keep in zip(("insert_new", "upsert_rows"), keeps, strict=True):
        monkeypatch.setattr(inbox, name, keep)

    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert refused.json() == {"error": "The event cannot be kept right now."}
    assert not_ready.status_code == 503
    assert not_ready.json()["inbox"] == {"ok": False, "error": "OSError: No space left on device", "unsettled": 0}
    assert client.post(EVENTS, content=body, headers=signed(body)).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_a_fault_of_ours_is_never_a_500(client, monkeypatch):
    def broken(_kind, _headers, body, *_args, **_keywords):
        raise KeyError(body)

    monkeypatch.setattr(webhook_endpoint, "verify_request", broken)
    with capture_logs() as logs:
        answer = client.post(EVENTS, content=b"a secret", headers=signed(b"a secret"))

    assert answer.status_code == 503
    assert [(line["event"], line["route"], line["error"]) for line in logs] == [("request.failed", EVENTS, "KeyError")]
    assert "a secret" not in str(logs)


def test_the_process_says_that_it_lives(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.head("/healthz").status_code == 200


def test_the_node_is_ready_without_redis_and_says_so(client):
    body = body_of()
    client.post(EVENTS, content=body, headers=signed(body))
    answer = client.get("/readyz")
    facts = answer.json()

    assert answer.status_code == 200
    assert facts["ready"] is True
    assert facts["inbox"] == {"ok": True, "error": None, "unsettled": 1}
    assert facts["redis"]["ok"] is False
    assert facts["relay"]["leader"] is True
    assert 0 < facts["oldest_unsettled_seconds"] < 60


def test_numbers_are_there_for_prometheus(client):
    body = body_of()
    client.post(EVENTS, content=body, headers=signed(body))
    answer = client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        "deliveries_kept_total 1.0",
        "inbox_up 1.0",
        "inbox_unsettled 1.0",
        "redis_up 0.0",
        "relay_leader 1.0",
    ):
        assert f"webhooks_{line}\n" in answer.text


def test_what_was_offered_last_is_told_once_something_was(served, valkey_url, eventually):
    with httpx.Client(base_url=f"http://127.0.0.1:{served(redis_url=valkey_url)}") as client:
        body = body_of()
        client.post(EVENTS, content=body, headers=signed(body))
        eventually(lambda: client.get("/readyz").json()["relay"]["last_offer_at"])
        assert client.get("/readyz").json()["redis"] == {"ok": True, "error": None}
        assert "webhooks_relay_last_offer_timestamp_seconds" in client.get("/metrics").text


def test_many_at_once_are_all_kept(served, kept):
    port = served()

    async def send_all(bodies):
        limits = httpx.Limits(max_connections=32)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=60) as client:
            return await asyncio.gather(*[client.post(EVENTS, content=body, headers=signed(body)) for body in bodies])

    bodies = [body_of() for _ in range(100)]
    answers = asyncio.run(send_all(bodies))

    assert {answer.status_code for answer in answers} == {200}
    assert sorted(kept()) == sorted(bodies)
