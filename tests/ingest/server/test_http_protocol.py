import asyncio
import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from ingest.config.settings import load_settings
from ingest.server import http_protocol
from ingest.server.serve import uvicorn_config


async def echo(request: Request):
    return PlainTextResponse(await request.body())


async def stream(_request: Request):
    async def pieces():
        for number in range(3):
            yield b"%d" % number
            await asyncio.sleep(0)

    return StreamingResponse(pieces())


@pytest.fixture
def given():
    """Return the settings of the server."""
    return {}


@pytest.fixture
def connect(serving, given):
    """Open a connection to a server that echoes."""
    port = serving(Starlette(routes=[Route("/", echo, methods=["POST"]), Route("/stream", stream)]), **given)
    with contextlib.ExitStack() as connections:
        yield lambda: connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))


def read_all(connection):
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


def test_a_response_is_sent_in_one_piece(connect):
    connection = connect()
    for _ in range(20):
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
        assert connection.recv(65536).endswith(b"\r\n\r\nbody")


def test_a_streamed_response_is_complete(connect):
    connection = connect()
    connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert read_all(connection).endswith(b"\r\n\r\n1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n")


def test_a_response_without_a_body_is_sent_too(connect):
    connection = connect()
    connection.sendall(b"HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_head_that_never_ends_is_refused(connect):
    connection = connect()
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 100_000_000:
            connection.sendall(b"POST / HTTP/1.1\r\n" if not sent else b"X-Header: %s\r\n" % (b"x" * 1000))
            sent += 1000
    assert sent < 50_000_000


def test_a_long_head_that_ends_is_accepted(connect):
    connection = connect()
    for _ in range(3):
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n")
        for _ in range(30):
            connection.sendall(b"X-Header: %s\r\n" % (b"x" * 1000))
        connection.sendall(b"\r\nok")
        assert connection.recv(65536).endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("sent", [b"", b"POST / HT", b"\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_a_complete_head_is_closed(connect, monkeypatch, sent):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.1)
    begun = time.monotonic()
    connection = connect()
    connection.sendall(sent)

    assert read_all(connection) == b""
    assert time.monotonic() - begun > 0.09  # uvloop counts whole milliseconds


def test_the_second_head_on_a_connection_has_its_own_timeout(connect, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.8)
    connection = connect()
    for _ in range(2):
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")
        assert connection.recv(65536).endswith(b"ok")
        time.sleep(0.5)
    connection.sendall(b"POST / HT")

    assert read_all(connection) == b""


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_an_offer_of_another_protocol_loses_no_body(connect, name):
    connection = connect()
    connection.sendall(
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\n%s: h2c\r\nContent-Length: 9\r\n\r\n" % name
    )
    connection.sendall(b"\r\nupgrade")
    assert connection.recv(65536).endswith(b"\r\n\r\n\r\nupgrade")


def test_what_is_not_http_is_refused(connect):
    connection = connect()
    connection.sendall(b"\x16\x03\x01 is how TLS begins\r\n\r\n")
    head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\ncontent-type: application/json\r\n" in head
    assert b"\r\nconnection: close" in head
    assert f"content-length: {len(body)}".encode() in head
    assert body == b'{"error": "Invalid HTTP request received."}'


def test_spaces_behind_such_an_offer_are_refused_and_not_buffered(connect):
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nUpgrade")
    connection.sendall(b" " * 1448)
    assert read_all(connection).startswith(b"HTTP/1.1 400")


OFFER = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\n"
PLAIN = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlast"


def answers_to(connection, *parts):
    """Send parts that are each read alone, and what ends the connection; return status and body of each answer."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts:
        connection.sendall(part)
        time.sleep(0.02)
    connection.sendall(LAST)
    answers = read_all(connection).split(b"HTTP/1.1 ")[1:]
    return [(answer[:3], answer.partition(b"\r\n\r\n")[2]) for answer in answers]


@pytest.mark.parametrize(
    "parts",
    [
        (b"\r\n\r\n" + OFFER + b"body",),
        (b"\r\n\r\n" + OFFER, b"body"),
        (OFFER + b"body" + OFFER + b"body" + PLAIN + b"body",),
        (PLAIN + b"bo", b"dy" + OFFER + b"body"),
        (OFFER[:-1], OFFER[-1:] + b"body"),
        tuple(b"%c" % byte for byte in OFFER + b"body"),
    ],
)
def test_wherever_such_an_offer_comes_every_request_has_its_own_body(connect, parts):
    assert set(answers_to(connect(), *parts)[:-1]) == {(b"200", b"body")}


def test_such_an_offer_in_two_parts_loses_no_body(connect):
    for cut in range(1, len(OFFER)):
        parts = (OFFER[:cut], OFFER[cut:] + b"body" + PLAIN + b"body")
        assert answers_to(connect(), *parts)[:-1] == [(b"200", b"body")] * 2, cut


def test_such_an_offer_behind_a_body_that_is_no_longer_read_loses_none_either(connect):
    nowhere = PLAIN.replace(b" / ", b" /nowhere ") + b"bo"
    first, *others = answers_to(connect(), nowhere, b"dy" + OFFER + b"body")
    assert first[0] == b"404"
    assert others == [(b"200", b"body"), (b"200", b"last")]


@pytest.mark.parametrize("cut", range(-4, 4))
def test_a_body_has_its_announced_length_whatever_is_in_it(connect, cut):
    body = b"a" + b"\r\nUpgrade: z" * 9 + b"GET /stream HTTP/1.1\r\nX: "
    sent = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    at = len(sent) + cut
    assert answers_to(connect(), (sent + body)[:at], (sent + body)[at:]) == [(b"200", body), (b"200", b"last")]


def test_a_request_that_closes_its_connection_and_offers_another_protocol_is_answered(connect):
    connection = connect()
    connection.sendall(OFFER.replace(b"upgrade", b"close, upgrade") + b"body")
    assert read_all(connection).endswith(b"\r\n\r\nbody")


def test_a_request_for_a_tunnel_is_refused(connect):
    connection = connect()
    connection.sendall(b"CONNECT x:443/a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody" + PLAIN + b"body")
    assert [answer[:3] for answer in read_all(connection).split(b"HTTP/1.1 ")[1:]] == [b"400"]


@pytest.fixture
def connect_to_slow_app(serving, given):
    """A connection to an application that waits before it answers, and the event that ends the waiting."""
    may_answer = threading.Event()

    async def wait(request: Request):
        body = await request.body()
        await asyncio.to_thread(may_answer.wait, 10)
        return PlainTextResponse(body)

    port = serving(Starlette(routes=[Route("/", wait, methods=["POST"])]), **given)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        yield connection, may_answer
        may_answer.set()


@pytest.mark.parametrize("before", [1, 2])
def test_requests_before_a_broken_body_are_answered(connect_to_slow_app, before):
    connection, may_answer = connect_to_slow_app
    connection.sendall((PLAIN + b"body") * before + CHUNKED + b"zz\r\n")
    time.sleep(0.05)
    may_answer.set()
    answers = read_all(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * before + [b"400"]


@pytest.mark.parametrize("before", [1, 2])
def test_requests_before_a_truncated_body_are_answered(connect_to_slow_app, before):
    connection, may_answer = connect_to_slow_app
    connection.sendall((PLAIN + b"body") * before + PLAIN + b"bo")
    connection.shutdown(socket.SHUT_WR)
    time.sleep(0.05)
    may_answer.set()
    answers = read_all(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * before


idle_soon = pytest.mark.parametrize("given", [{"keep_alive": "0.1"}])


@idle_soon
@pytest.mark.parametrize("sent", [b"\r\n", b"\r\n\r\n"])
def test_an_empty_line_does_not_keep_an_idle_connection_open(connect, sent):
    connection = connect()
    connection.sendall(PLAIN + b"body")
    assert connection.recv(65536).endswith(b"body")
    connection.sendall(sent)
    assert read_all(connection) == b""


@idle_soon
def test_a_late_body_does_not_keep_an_idle_connection_open(connect):
    connection = connect()
    connection.sendall(PLAIN.replace(b" / ", b" /nowhere "))
    assert connection.recv(65536).startswith(b"HTTP/1.1 404")
    connection.sendall(b"late")
    assert read_all(connection) == b""


@pytest.mark.parametrize("given", [{"keep_alive": "0.1"}])
def test_an_answer_in_the_middle_of_the_next_head_sets_no_timeout_for_that_request(connect_to_slow_app):
    connection, may_answer = connect_to_slow_app
    connection.sendall(PLAIN + b"body" + LAST[:20])
    may_answer.set()
    assert connection.recv(65536).endswith(b"body")
    may_answer.clear()
    connection.sendall(LAST[20:])
    time.sleep(0.3)
    may_answer.set()
    assert read_all(connection).endswith(b"last")


def test_a_sender_that_shuts_its_side_down_is_answered(connect):
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection).endswith(b"\r\n\r\nbody")


def test_a_good_request_is_answered_before_the_broken_one_behind_it(connect):
    connection = connect()
    good = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
    connection.sendall(good + good + b"\0\r\n\r\n" + good)
    answers = read_all(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"200", b"400"]


def test_trailers_are_no_headers_of_the_request(serving):
    seen = []

    async def record(request: Request):
        await request.body()
        seen.extend(request.scope["headers"])
        return PlainTextResponse("ok")

    port = serving(Starlette(routes=[Route("/", record, methods=["POST"])]))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-A: late\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert seen == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]


def test_a_body_that_does_not_end_after_its_answer_closes_the_connection(connect, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.1)
    connection = connect()
    connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nnot all")
    assert read_all(connection).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("length", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
def test_a_body_after_its_answer_gets_no_second_one(connect, length):
    connection = connect()
    connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 404")
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"z" * 70_000)
    assert read_all(connection) == b""


def test_a_body_that_ends_after_its_answer_leaves_the_connection_usable(connect, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.1)
    connection = connect()
    connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 404")
    connection.sendall(b"late")
    time.sleep(0.3)
    connection.sendall(
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nbody"
    )
    assert connection.recv(65536).endswith(b"\r\n\r\nbody")


def test_a_sender_at_a_unix_socket_has_its_own_name_instead_of_an_address(tmp_path, eventually):
    async def client(request: Request):
        return PlainTextResponse(request.client.host)

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "http"))
    listener.listen()
    server = uvicorn.Server(uvicorn_config(Starlette(routes=[Route("/", client)]), load_settings()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        eventually(lambda: server.started)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "http"))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert read_all(connection).endswith(b"\r\n\r\nunix")
    finally:
        server.should_exit = True
        thread.join()
