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
from ingest.inbox.quarantined_request import WRONG_PATH
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.wire.envelope import Kind, delivery_id
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
def short_waits(monkeypatch):
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


class RawConnection:
    """A connection for bytes that no client library would send."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.answers = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.answers.close()
        self.socket.close()

    def send(self, *parts):
        self.socket.sendall(b"".join(parts))

    def head(self, *headers, path=EVENTS):
        lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]
        self.send("\r\n".join(lines).encode("latin-1"))

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
    with contextlib.ExitStack() as connections:
        yield lambda **settings: connections.enter_context(RawConnection(served(**settings)))


def signature(body):
    return f"X-HMAC-SHA512-Signature: {sign(body, KEY)}"


def test_a_stored_delivery_is_answered_with_its_id(client, kept):
    body = body_of()
    first = client.post(EVENTS, content=body, headers=signed(body))
    again = client.post(EVENTS, content=body, headers=signed(body))

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.headers["content-type"] == "application/json"
    assert len(first.json()["id"]) == 32
    assert first.json()["duplicate"] is False
    assert again.json() == {"id": first.json()["id"], "duplicate": True}
    assert kept() == [body]


def test_a_trailing_slash_loses_no_event(client, kept):
    for path in (f"{EVENTS}/", f"{CDRS}/"):
        body = body_of()
        assert client.post(path, content=body, headers=signed(body)).status_code == 200
    assert len(kept()) == 2


@pytest.mark.parametrize("path", [f"/{EVENTS}", "/plugsurfing//events", f"{EVENTS}//", f"/{CDRS}"])
def test_a_doubled_slash_loses_no_event(served, kept, path):
    body = body_of()
    with RawConnection(served()) as connection:  # other clients tidy a path up
        connection.head(f"Content-Length: {len(body)}", signature(body), path=path)
        connection.send(body)
        assert connection.answer()[0] == 200
    assert kept() == [body]


@pytest.mark.parametrize("path", ["/plugsurfing/event", "/", "/healthz", "/my/CDRs"])
def test_a_signed_request_at_a_wrong_path_is_in_quarantine_until_its_kind_is_named(
    client, kept, tmp_path, eventually, path
):
    body, kind = body_of(), Kind.CDRS if "CDR" in path else Kind.EVENTS
    answers = [client.post(path, content=body, headers=signed(body, key)) for key in (KEY, b"another key")]
    assert {(answer.status_code, answer.json()["error"]) for answer in answers} == {(404, "There is nothing here.")}

    quarantine = Quarantine(tmp_path / FILE_NAME, load_settings(data_dir=tmp_path))
    eventually(lambda: len(quarantine.list()) == len(answers))
    assert [(one.path, one.kind, one.reason == WRONG_PATH) for one in quarantine.list()] == [
        (path, kind, True),
        (path, kind, False),
    ]
    keys = SigningKeys(current=KEY)
    assert [one.reason for one in quarantine.reverify(keys)] == [one.reason for one in quarantine.list()]
    let_in = list(quarantine.reverify(keys, kind=Kind.CDRS))
    assert [one.kept and one.kept.id for one in let_in] == [delivery_id(Kind.CDRS, body), None]
    assert kept() == [body]
    assert 'webhooks_requests_refused_total{reason="WrongPath"} 1.0' in client.get("/metrics").text


def test_an_unsigned_request_at_a_wrong_path_leaves_nothing(client, tmp_path):
    assert client.post("/plugsurfing/event", content=body_of()).status_code == 404
    with RawConnection(client.base_url.port) as connection:  # not even its body is read
        connection.head("Content-Length: 4", path="/plugsurfing/event")
        assert connection.answer()[0] == 404
    refused = client.post("/plugsurfing/event", content=b"", headers=signed(b"another body"))
    assert refused.status_code == 404


def test_the_same_bytes_on_another_url_are_another_delivery(client):
    body = body_of()
    ids = {client.post(path, content=body, headers=signed(body)).json()["id"] for path in (EVENTS, CDRS)}
    assert len(ids) == 2


def test_a_well_signed_body_is_never_refused_for_its_shape(client, kept):
    bodies = [b"", b"not json", b"\xff\xfe\x00", b"[" * 100_000, b'{"event": "NEVER_HEARD_OF"}', b"\x80\x80"]
    for body in bodies:
        assert client.post(EVENTS, content=body, headers=signed(body)).status_code == 200
    assert kept() == bodies


def test_a_request_from_another_address_is_refused_without_detail_and_verified_once_it_is_listed(
    served, tmp_path, kept, eventually
):
    body = body_of()
    port = served(plugsurfing_sources="192.0.2.7")
    # Only a proxy of ours may name a sender.
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


def test_behind_a_proxy_the_sender_is_the_one_that_the_proxy_names(served, kept):
    body = body_of()
    port = served(plugsurfing_sources="192.0.2.7", forwarded_by="127.0.0.1")
    statuses = [
        httpx.post(
            f"http://127.0.0.1:{port}{EVENTS}", content=body, headers={**signed(body), "X-Forwarded-For": forwarded_for}
        ).status_code
        for forwarded_for in ("192.0.2.7, 203.0.113.9", "203.0.113.9, 192.0.2.7")
    ]
    assert statuses == [403, 200]
    assert kept() == [body]


def test_an_unverified_request_is_refused_without_detail_and_put_in_quarantine(client, tmp_path, eventually):
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


def test_the_authorization_header_is_required_beside_the_signature(served):
    port = served(plugsurfing_authorization="Bearer one\nBearer two")
    body = body_of()
    asked = {
        value: httpx.post(
            f"http://127.0.0.1:{port}{EVENTS}", content=body, headers={**signed(body), "Authorization": value}
        ).status_code
        for value in ("Bearer one", "Bearer two", "Bearer three")
    }
    assert asked == {"Bearer one": 200, "Bearer two": 200, "Bearer three": 403}


def test_a_long_body_is_stored_to_the_last_byte(client, kept):
    body = b'"' + b"x" * (1_048_576 - 2) + b'"'
    assert client.post(EVENTS, content=body, headers=signed(body)).status_code == 200
    assert kept() == [body]


def test_a_body_in_many_chunks_is_put_together(wire, kept):
    body = body_of()
    sender = wire()
    sender.head("Transfer-Encoding: chunked", signature(body))
    for at in range(len(body)):
        sender.send(b"1\r\n", body[at : at + 1], b"\r\n")
        if at % 10 == 0:
            time.sleep(0.001)  # so that some of them come alone
    sender.send(b"0\r\n\r\n")

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
            sender.send(b"1000\r\n", b"x" * 0x1000, b"\r\n")
            sent += 0x1000

    assert sent < 50_000_000
    assert sender.answer()[0] == 413
    assert kept() == []


def test_a_sender_that_sends_everything_before_it_reads_gets_the_reason(client):
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


def test_a_length_with_more_leading_zeros_than_python_parses_is_a_length(wire, kept):
    body = body_of()
    sender = wire()
    with capture_logs() as logs:
        sender.head(f"Content-Length: {'0' * 5000}{len(body)}", signature(body))
        sender.send(body)
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


def test_identity_is_no_encoding(client):
    for encoding in ("identity", "", "Identity"):
        body = body_of()
        headers = {**signed(body), "Content-Encoding": encoding}
        assert client.post(EVENTS, content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("part", [b"", b'{"half'])
def test_a_body_that_is_not_complete_in_time_is_refused(wire, kept, part):
    sender = wire(body_timeout="100ms")
    begun = time.monotonic()
    sender.head("Content-Length: 100", signature(b""))
    sender.send(part)

    status, headers, body = sender.answer()
    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(body) == {"error": "The body did not arrive in time."}
    assert time.monotonic() - begun > 0.09
    assert sender.is_closed()
    assert kept() == []


def test_a_body_that_drips_is_refused_too(wire):
    sender = wire(body_timeout="100ms")
    sender.head("Content-Length: 1000", signature(b""))
    ended = threading.Event()

    def drip():
        with contextlib.suppress(OSError):
            while not ended.wait(0.01):
                sender.send(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    assert sender.answer()[0] == 408
    ended.set()
    dripping.join()


def test_a_slow_sender_slows_only_itself(wire, served):
    port = served(body_timeout="10m")
    with RawConnection(port) as slow:
        slow.head("Content-Length: 100", signature(b""))
        begun = time.monotonic()
        for _ in range(20):
            body = body_of()
            assert httpx.post(f"http://127.0.0.1:{port}{EVENTS}", content=body, headers=signed(body)).status_code == 200
        assert time.monotonic() - begun < 60


def test_a_sender_that_disconnects_in_the_middle_leaves_nothing_behind(served, kept, eventually):
    port = served()
    with capture_logs() as logs:
        for _ in range(3):
            with RawConnection(port) as sender:
                sender.head("Content-Length: 100", signature(b""))
                sender.send(b'{"half')
        eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200)
        body = body_of()
        httpx.post(f"http://127.0.0.1:{port}{EVENTS}", content=body, headers=signed(body))
    assert kept() == [body]
    assert [line for line in logs if line["log_level"] == "error"] == []


def test_a_request_whose_sender_disconnects_after_it_is_stored(served, kept, eventually):
    body = body_of()
    with RawConnection(served()) as sender:
        sender.head(f"Content-Length: {len(body)}", signature(body))
        sender.send(body)
    eventually(lambda: kept() == [body])


def test_a_sender_that_shuts_its_side_down_is_answered(wire, kept):
    """It shuts its side down, and gets the answer on the other."""
    body = body_of()
    sender = wire()
    sender.head(f"Content-Length: {len(body)}", signature(body))
    sender.send(body)
    sender.socket.shutdown(socket.SHUT_WR)

    assert sender.answer()[0] == 200
    assert sender.is_closed()
    assert kept() == [body]


def test_half_a_body_from_a_sender_that_shuts_its_side_down_is_dropped(wire, kept):
    sender = wire()
    sender.head("Content-Length: 100", signature(b""))
    sender.send(b'{"half')
    sender.socket.shutdown(socket.SHUT_WR)

    assert sender.is_closed()
    assert kept() == []


def test_pipelined_requests_are_answered_in_their_order(wire, kept):
    sender = wire()
    bodies = [body_of() for _ in range(20)]
    requests = b""
    for body in bodies:
        head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\n{signature(body)}\r\nContent-Length: {len(body)}\r\n\r\n"
        requests += head.encode() + body
    sender.send(requests, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")

    assert [sender.answer()[0] for _ in range(21)] == [200] * 21
    assert kept() == bodies


def test_a_client_that_offers_http_2_is_served_in_http_1(wire, kept):
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
        sender.send(body)
        assert sender.answer()[0] == 200
    assert kept() == [body]


def test_a_sender_that_expects_100_continue_gets_it(wire, kept):
    body = body_of()
    sender = wire()
    sender.head("Expect: 100-continue", f"Content-Length: {len(body)}", signature(body))
    assert sender.answers.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert sender.answers.readline() == b"\r\n"
    sender.send(body)

    assert sender.answer()[0] == 200
    assert kept() == [body]


def test_only_post_is_allowed(client):
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = client.request(method, EVENTS)
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
        assert method == "HEAD" or answer.json() == {"error": "This method is not allowed here."}


def test_any_other_path_is_not_found(client):
    for method in ("GET", "POST"):
        for path in ("/", "/plugsurfing", "/plugsurfing/events/x", "/nowhere", "//", "/%00"):
            answer = client.request(method, path)
            assert answer.status_code == 404
            assert answer.json() == {"error": "There is nothing here."}


def test_when_nothing_can_be_stored_the_answer_is_503(client, tmp_path, monkeypatch):
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


def test_healthz_answers_200(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.head("/healthz").status_code == 200


def test_readyz_answers_200_without_redis(client):
    body = body_of()
    client.post(EVENTS, content=body, headers=signed(body))
    answer = client.get("/readyz")
    state = answer.json()

    assert answer.status_code == 200
    assert state["ready"] is True
    assert state["inbox"] == {"ok": True, "error": None, "unsettled": 1}
    assert state["redis"]["ok"] is False
    assert state["relay"]["leader"] is True
    assert 0 < state["oldest_unsettled_seconds"] < 60


def test_metrics_are_prometheus_text(client):
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


def test_the_time_of_the_last_publication_is_shown_once_there_was_one(served, valkey_url, eventually):
    with httpx.Client(base_url=f"http://127.0.0.1:{served(redis_url=valkey_url)}") as client:
        body = body_of()
        client.post(EVENTS, content=body, headers=signed(body))
        eventually(lambda: client.get("/readyz").json()["relay"]["last_offer_at"])
        assert client.get("/readyz").json()["redis"] == {"ok": True, "error": None}
        assert "webhooks_relay_last_offer_timestamp_seconds" in client.get("/metrics").text


def test_concurrent_requests_are_all_stored(served, kept):
    port = served()

    async def send_all(bodies):
        limits = httpx.Limits(max_connections=32)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=60) as client:
            return await asyncio.gather(*[client.post(EVENTS, content=body, headers=signed(body)) for body in bodies])

    bodies = [body_of() for _ in range(100)]
    answers = asyncio.run(send_all(bodies))

    assert {answer.status_code for answer in answers} == {200}
    assert sorted(kept()) == sorted(bodies)
