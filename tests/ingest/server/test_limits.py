import contextlib
import re
import resource
import socket
import time

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from ingest.authorize.authorize_metrics import AuthorizeMetrics
from ingest.http.request_body import mark_authentic
from ingest.metrics import Metrics
from ingest.server import http_protocol, limits
from ingest.server.limits import BodyLimit, ConnectionLimit, raise_file_limit


@pytest.fixture
def received():
    """Return the bodies that the application has received."""
    return []


@pytest.fixture
def connect(serving, received):
    """Start a server with these settings, and return what opens connections to it."""
    with contextlib.ExitStack() as connections:

        async def echo(request: Request):
            received.append(await request.body())
            if received[-1].startswith(b"authentic"):
                mark_authentic(request.scope)
            return PlainTextResponse(received[-1])

        def start(**settings):
            port = serving(Starlette(routes=[Route("/", echo, methods=["POST"])]), **settings)
            return lambda: connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))

        yield start


def post(body, length=None):
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (length or len(body), body)


def exchange(connection, body):
    connection.sendall(post(body))
    return connection.recv(65536).endswith(body)


def is_open(connection):
    connection.settimeout(0)
    try:
        return connection.recv(65536) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        connection.settimeout(10)


@pytest.mark.parametrize(
    ("files", "most", "backlog"),
    [(1_048_576, 4096, 2048), (-1, 4096, 2048), (1024, 640, 256), (256, 128, 64), (4, 2, 1)],
)
def test_descriptors_are_left_beside_the_connections_and_those_about_to_be_accepted(files, most, backlog):
    limit = ConnectionLimit(4096, files)
    assert (limit.most, limit.backlog) == (most, backlog)
    assert files < 0 or limit.most + limit.backlog + min(limits.RESERVED_FILES, files // 4) <= files


def test_the_limit_of_files_is_raised_to_the_hard_one_and_that_is_logged(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _name: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda *given: asked.append(given))
    with capture_logs() as logs:
        assert raise_file_limit() == 4096
    assert asked == [(resource.RLIMIT_NOFILE, (4096, 4096))]
    assert [(line["event"], line["before"], line["now"]) for line in logs] == [("files.limit_raised", 1024, 4096)]


def test_a_system_that_refuses_to_raise_the_limit_keeps_it(monkeypatch):
    def refuse(*_):
        raise ValueError("no")

    monkeypatch.setattr(resource, "getrlimit", lambda _name: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_file_limit() == 256


def served(sample):
    """Return the sum of a sample in the metrics that `serve` and `authorize` serve."""
    found = [re.findall(rf"^{sample}(?:\{{.*\}})? (\S+)$", each({}).decode(), re.MULTILINE) for each in SERVED]
    ours, others = (sum(map(float, values)) for values in found)
    assert ours == others
    return ours


SERVED = Metrics().text, AuthorizeMetrics().text


def test_silent_connections_are_closed_for_new_ones_and_good_requests_are_answered(connect, received, eventually):
    before = served("webhooks_connections_shed_total")
    connect = connect(max_connections=16)
    silent = []
    for number in range(60):
        silent.append(connect())
        if number % 2:
            assert exchange(silent[-1], b"stranger")
        if number % 10 == 9:
            assert exchange(connect(), b"good")
    assert received.count(b"good") == 6
    eventually(lambda: sum(map(is_open, silent)) <= 16)
    assert is_open(silent[-1])
    assert served("webhooks_connections_shed_total") >= before + 44


def test_the_connection_of_an_authentic_request_outlives_those_of_strangers(connect, eventually):
    connect = connect(max_connections=8)
    trusted = connect()
    assert exchange(trusted, b"authentic")
    strangers = [connect() for _ in range(30)]
    eventually(lambda: sum(map(is_open, strangers)) <= 8)
    assert exchange(trusted, b"authentic, too")


def test_unfinished_requests_are_closed_for_new_ones_as_well(connect):
    connect = connect(max_connections=8)
    for number in range(40):
        connect().sendall(b"POST / HT" if number % 2 else post(b"begun", 100))
        if number % 10 == 9:
            assert exchange(connect(), b"good")


def test_an_idle_connection_is_half_closed_at_its_end_and_what_crosses_with_that_is_taken(
    connect, received, eventually
):
    connection = connect(keep_alive="0.1")()
    assert exchange(connection, b"first")
    assert connection.recv(65536) == b""
    connection.sendall(post(b"crossing"))
    eventually(lambda: received == [b"first", b"crossing"])
    eventually(lambda: not is_writable(connection))


def test_a_connection_in_use_is_kept_and_its_idle_time_begins_with_its_last_answer(connect):
    connection = connect(keep_alive="0.2")()
    begun = time.monotonic()
    while time.monotonic() < begun + 0.5:  # longer than the timer that the first answer sets
        assert exchange(connection, b"again")
    answered = time.monotonic()
    assert connection.recv(65536) == b""
    assert 0.15 < time.monotonic() - answered < 5


def is_writable(connection):
    try:
        connection.sendall(b"\r\n")
    except ConnectionError:
        return False
    return True


def test_a_half_closed_connection_on_which_nothing_arrives_is_closed(connect, monkeypatch, eventually):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.1)
    connection = connect(keep_alive="0.1")()
    assert exchange(connection, b"first")
    assert connection.recv(65536) == b""
    eventually(lambda: not is_writable(connection))


def test_unfinished_bodies_are_bounded_in_sum_and_others_are_answered(connect, received):
    connect = connect(arriving_bytes=300_000, max_body_bytes=100_000)
    unfinished = [connect() for _ in range(12)]
    for connection in unfinished:
        with contextlib.suppress(ConnectionError):
            connection.sendall(post(bytes(90_000), 99_999))
    answer = unfinished[0].recv(65536)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: " in answer
    assert exchange(connect(), b"good")
    assert exchange(connect(), b"x" * 50_000)
    assert received == [b"good", b"x" * 50_000]


def test_many_large_bodies_that_are_complete_are_all_answered(connect):
    connect = connect(arriving_bytes=300_000, max_body_bytes=100_000)
    connection = connect()
    assert all(exchange(connection, bytes([65 + number]) * 60_000) for number in range(12))


class Body:
    """A connection that counts how often it was shed."""

    def __init__(self, *, complete=False):
        self.holds_complete_body = complete
        self.times_shed = 0

    def shed(self, *, unread):
        self.times_shed += unread
        return True


def test_the_largest_and_oldest_unfinished_body_is_dropped_first():
    before = served("webhooks_bodies_dropped_total")
    limit, large, old, complete = BodyLimit(100), Body(), Body(), Body(complete=True)
    limit.add(complete, 30, now=0.0)
    limit.add(old, 2, now=1.0)
    limit.add(large, 60, now=2.0)
    limit.add(new := Body(), 10, now=3.0)
    assert (large.times_shed, limit.total) == (1, 42)
    assert served("webhooks_bodies_dropped_total") == before + 1
    limit.release(old)
    limit.release(complete)
    limit.release(new)
    limit.release(large)
    assert limit.total == 0


def test_if_all_others_are_complete_the_newest_body_is_dropped():
    limit, new = BodyLimit(100), Body(complete=True)
    limit.add(before := Body(complete=True), 90, now=0.0)
    limit.add(new, 20, now=1.0)
    assert (before.times_shed, new.times_shed, limit.total) == (0, 1, 90)
