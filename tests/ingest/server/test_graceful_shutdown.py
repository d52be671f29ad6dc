import asyncio
import contextlib
import os
import signal
import socket
import threading

import pytest
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ingest.config.settings import load_settings
from ingest.server import graceful_shutdown
from ingest.server.graceful_shutdown import DrainingServer
from ingest.server.http_protocol import BoundedHttpProtocol
from ingest.server.serve import uvicorn_config


class Served:
    """A draining server in a thread; its application echoes, and answers `slow` when the test allows it."""

    def __init__(self, **options):
        self.received = []
        self.may_answer = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        app = Starlette(routes=[Route("/", self.echo, methods=["POST"])])
        self.server = DrainingServer(uvicorn_config(app, load_settings()), **options)
        self.thread = threading.Thread(target=lambda: uvloop.run(self.server.serve([self.listener])))

    async def echo(self, request: Request):
        body = await request.body()
        self.received.append(body)
        while body == b"slow" and not self.may_answer.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        return PlainTextResponse(body)

    def connect(self):
        return socket.create_connection(self.address, timeout=10)

    @property
    def connections(self):
        return self.server.server_state.connections

    @property
    def is_draining(self):
        return self.server.server_state.is_draining

    @property
    def refuses(self):
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    def has_ended(self):
        self.thread.join(10)
        return not self.thread.is_alive()


@pytest.fixture
def serve(eventually, monkeypatch):
    """Start a server. No time is up before the test is over, unless the test says otherwise."""
    with contextlib.ExitStack() as running:

        def start(idle=30.0, first_request=30.0, half_close=30.0, **options):
            monkeypatch.setattr(graceful_shutdown, "IDLE_TIMEOUT", idle)
            monkeypatch.setattr(graceful_shutdown, "FIRST_REQUEST_TIMEOUT", first_request)
            monkeypatch.setattr(graceful_shutdown, "HALF_CLOSE_TIMEOUT", half_close)
            served = Served(**options)
            served.thread.start()
            running.callback(served.thread.join)
            running.callback(lambda: setattr(served.server, "force_exit", True))
            running.callback(lambda: setattr(served.server, "should_exit", True))
            running.callback(served.may_answer.set)
            eventually(lambda: served.server.started)
            return served

        yield start


@pytest.fixture
def drain(eventually):
    """Have a server shut down, and wait until it drains."""

    def begin(served):
        served.server.should_exit = True
        eventually(lambda: served.is_draining)

    return begin


def post(body, *headers):
    head = ["POST / HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def read_all(connection):
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def test_an_idle_connection_gets_one_more_answer_which_says_that_it_closes(serve, drain, eventually):
    served = serve()
    with served.connect() as used, served.connect() as unused:
        used.sendall(post(b"one"))
        assert used.recv(65536).endswith(b"one")
        eventually(lambda: len(served.connections) == 2)
        drain(served)
        used.sendall(post(b"two"))
        unused.sendall(post(b"three"))
        for connection, body in ((used, b"two"), (unused, b"three")):
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"connection: close\r\n" in answer
            assert answer.endswith(body)
    assert served.has_ended()  # at once, as no connection is left


def test_a_server_without_connections_ends_at_once(serve, drain):
    served = serve()
    drain(served)
    assert served.has_ended()


def test_a_server_of_browsers_ends_at_once_with_idle_connections_and_finishes_its_answers(serve, eventually):
    served = serve(waits_for_senders=False)
    with served.connect() as idle, served.connect() as busy:
        idle.sendall(post(b"first"))
        assert idle.recv(4096).endswith(b"first")
        busy.sendall(post(b"slow"))
        eventually(lambda: b"slow" in served.received)
        served.server.should_exit = True
        assert idle.recv(4096) == b""
        served.may_answer.set()
        assert busy.recv(4096).endswith(b"slow")
        assert served.has_ended()


def test_a_server_without_a_supervisor_accepts_connections_while_it_drains(serve, drain, eventually):
    served = serve()
    with served.connect() as idle:
        eventually(lambda: served.connections)
        drain(served)
        with served.connect() as late:
            late.sendall(post(b"late"))
            assert read_all(late).endswith(b"late")
        idle.sendall(post(b"idle"))
        assert read_all(idle).endswith(b"idle")
    assert served.has_ended()


def test_a_sender_that_was_accepted_while_the_server_drains_has_time_for_its_request(serve, drain, eventually):
    served = serve()
    with served.connect() as old:
        eventually(lambda: served.connections)
        drain(served)
        with served.connect() as late:
            eventually(lambda: len(served.connections) == 2)
            old.sendall(post(b"old"))
            assert read_all(old).endswith(b"old")
            eventually(lambda: served.refuses)
            late.sendall(post(b"late"))
            assert read_all(late).endswith(b"late")
    assert served.has_ended()


def test_a_server_with_a_supervisor_accepts_none_while_it_drains(serve, eventually):
    served = serve(supervisor=os.getppid())
    with served.connect() as idle:
        eventually(lambda: served.connections)
        served.server.should_exit = True
        eventually(lambda: served.refuses)
        idle.sendall(post(b"idle"))
        assert read_all(idle).endswith(b"idle")
    assert served.has_ended()


def test_answers_do_not_wait_for_the_callback_that_no_connection_is_accepted_any_more(serve, eventually):
    called, may_return = threading.Event(), threading.Event()

    def on_drained():
        may_return.wait(30)
        called.set()

    served = serve(supervisor=os.getppid(), on_drained=on_drained)
    with served.connect() as used:
        eventually(lambda: served.connections)
        served.server.should_exit = True
        eventually(lambda: served.refuses)
        used.sendall(post(b"used"))
        assert read_all(used).endswith(b"used")
        assert not called.is_set()
    may_return.set()
    assert served.has_ended()
    assert called.is_set()


def test_a_request_that_crosses_with_the_half_close_is_still_read(serve, eventually):
    served = serve(idle=0.0, first_request=0.0)
    with served.connect() as idle:
        eventually(lambda: served.connections)
        served.server.should_exit = True
        assert read_all(idle) == b""  # its sending side is shut down
        idle.sendall(post(b"crossing"))
        eventually(lambda: served.received == [b"crossing"])
    assert served.has_ended()


def test_a_connection_with_bytes_that_the_loop_has_not_read_is_not_idle(serve, drain, eventually, monkeypatch):
    """As on a busy machine: the request has arrived when the time of idle connections is up."""
    served = serve(idle=0.2, first_request=0.0, half_close=10.0)
    half_close, arrived = BoundedHttpProtocol.half_close_if_idle, threading.Event()
    with served.connect() as sender:
        eventually(lambda: served.connections)

        def half_close_later(connection):
            if not arrived.is_set():  # the loop stands still while the request arrives
                sender.sendall(post(b"unread"))
                arrived.set()
            half_close(connection)

        monkeypatch.setattr(BoundedHttpProtocol, "half_close_if_idle", half_close_later)
        drain(served)
        answer = read_all(sender)
    assert answer.endswith(b"unread")
    assert b"connection: close\r\n" in answer


def test_of_pipelined_requests_the_last_closes_the_connection(serve, drain, eventually):
    served = serve()
    with served.connect() as eager:
        eager.sendall(post(b"slow"))
        eventually(lambda: served.received == [b"slow"])
        drain(served)
        eager.sendall(post(b"two") + post(b"three"))
        (connection,) = served.connections
        eventually(lambda: len(connection.pipeline) == 2)
        served.may_answer.set()
        answer = read_all(eager)
    assert [piece.rpartition(b"\n")[2] for piece in answer.split(b"HTTP/1.1")[1:]] == [b"slow", b"two", b"three"]
    assert answer.count(b"connection: close") == 1


def test_a_connection_on_which_a_head_has_begun_is_not_closed(serve, eventually):
    served = serve(idle=0.0, first_request=0.0, half_close=0.0)
    request = post(b"whole")
    with served.connect() as slow, served.connect() as idle:
        slow.sendall(request[:20])
        idle.sendall(post(b"later"))
        assert idle.recv(65536).endswith(b"later")  # so what was sent before has been read
        served.server.should_exit = True
        eventually(lambda: len(served.connections) == 1)  # the idle one was closed
        slow.sendall(request[20:])
        assert read_all(slow).endswith(b"whole")


def test_a_server_ends_when_its_supervisor_is_gone(serve):
    assert serve(supervisor=1).has_ended()


def test_the_service_manager_hears_when_a_server_starts_and_when_it_stops(serve, drain, tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        served = serve()
        assert manager.recv(1000).decode() == f"READY=1\nMAINPID={os.getpid()}"
        drain(served)
        assert manager.recv(1000).decode() == "STOPPING=1"


@pytest.mark.parametrize(("handler", "ends_by"), [(signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, signal.SIGTERM)])
def test_a_closed_terminal_ends_a_server_in_order_unless_nohup_started_it(handler, ends_by, eventually):
    # uvicorn raises SIGTERM again when it has ended.
    before = {
        number: signal.signal(number, given)
        for number, given in ((signal.SIGHUP, handler), (signal.SIGTERM, lambda *_: None))
    }
    server = DrainingServer(uvicorn_config(Starlette(), load_settings()))
    ignored = []

    def close_terminal():
        eventually(lambda: server.started)
        ignored.append(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
        os.kill(os.getpid(), ends_by)

    closing = threading.Thread(target=close_terminal)
    closing.start()
    try:
        server.run([socket.create_server(("127.0.0.1", 0))])
    finally:
        closing.join()
        for number, previous in before.items():
            signal.signal(number, previous)
    assert ignored == [handler is signal.SIG_IGN]
