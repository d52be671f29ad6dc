"""A server that leaves, on its own connections."""

import asyncio
import contextlib
import os
import signal
import socket
import threading

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ingest.server import graceful_shutdown
from ingest.server.graceful_shutdown import DrainingServer
from ingest.server.serve import uvicorn_config

taken = []
may_answer = threading.Event()


async def echo(request: Request):
    body = await request.body()
    taken.append(body)
    if body == b"slow":
        await asyncio.to_thread(may_answer.wait, 30)
    return PlainTextResponse(body)


@pytest.fixture
def leave(eventually, monkeypatch):
    """Serve; then a call lets the server leave. Brisk, as far as a test does not need it otherwise."""
    taken.clear()
    may_answer.clear()
    with contextlib.ExitStack() as running:

        def begin(linger=10.0, half_closed=10.0, **options):
            monkeypatch.setattr(graceful_shutdown, "DRAIN_TIME", linger)
            monkeypatch.setattr(graceful_shutdown, "HALF_CLOSE_TIME", half_closed)
            listening = socket.create_server(("127.0.0.1", 0))
            address = listening.getsockname()
            server = DrainingServer(uvicorn_config(Starlette(routes=[Route("/", echo, methods=["POST"])])), **options)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            monkeypatch.setattr(signal, "signal", lambda *_: None)  # not from this thread
            thread.start()
            running.callback(thread.join)
            running.callback(lambda: setattr(server, "force_exit", True) or setattr(server, "should_exit", True))
            running.callback(may_answer.set)
            eventually(lambda: server.started)
            return server, address, thread

        yield begin


@pytest.fixture
def has_begun(eventually):
    """Let a server leave, and wait until it has begun to."""

    def begin(server):
        server.should_exit = True
        eventually(lambda: server.server_state.is_draining)

    return begin


def ask(body, *headers):
    head = ["POST / HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def is_refused(address):
    try:
        socket.create_connection(address, timeout=10).close()
    except ConnectionRefusedError:
        return True
    return False


def answer_on(connection):
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def test_an_idle_connection_is_answered_once_more_and_told_to_close(leave, has_begun, eventually):
    server, address, thread = leave()
    with socket.create_connection(address, timeout=10) as kept, socket.create_connection(address, timeout=10) as new:
        kept.sendall(ask(b"one"))
        assert kept.recv(65536).endswith(b"one")
        eventually(lambda: len(server.server_state.connections) == 2)
        has_begun(server)
        kept.sendall(ask(b"two"))
        new.sendall(ask(b"three"))
        for connection, said in ((kept, b"two"), (new, b"three")):
            answer = answer_on(connection)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"connection: close\r\n" in answer
            assert answer.endswith(said)
    thread.join(10)  # long before it has lingered to the end
    assert not thread.is_alive()


def test_while_it_lingers_the_door_of_a_single_process_stays_open(leave, has_begun, eventually):
    server, address, thread = leave()
    with socket.create_connection(address, timeout=10) as idle:
        eventually(lambda: server.server_state.connections)
        has_begun(server)
        with socket.create_connection(address, timeout=10) as late:
            late.sendall(ask(b"late"))
            assert answer_on(late).endswith(b"late")
        idle.sendall(ask(b"idle"))
        assert answer_on(idle).endswith(b"idle")
    thread.join(10)


def test_beside_others_it_takes_nobody_new(leave, eventually):
    server, address, thread = leave(supervisor=os.getppid())
    with socket.create_connection(address, timeout=10) as idle:
        eventually(lambda: server.server_state.connections)
        server.should_exit = True
        eventually(lambda: is_refused(address))
        idle.sendall(ask(b"idle"))
        assert answer_on(idle).endswith(b"idle")
    thread.join(10)


def test_who_is_answered_does_not_wait_for_the_last_sign_of_life(leave, eventually):
    signed, may_sign = threading.Event(), threading.Event()

    def sign():
        may_sign.wait(30)
        signed.set()

    server, address, thread = leave(supervisor=os.getppid(), on_drained=sign)
    with socket.create_connection(address, timeout=10) as kept:
        eventually(lambda: server.server_state.connections)
        server.should_exit = True
        eventually(lambda: is_refused(address))  # nobody is taken after the sign
        kept.sendall(ask(b"kept"))
        assert answer_on(kept).endswith(b"kept")
        assert not signed.is_set()
    may_sign.set()
    thread.join(10)
    assert signed.is_set()


def test_what_was_on_its_way_when_our_side_was_closed_is_still_taken(leave, eventually):
    server, address, _ = leave(linger=0.0)
    with socket.create_connection(address, timeout=10) as idle:
        eventually(lambda: server.server_state.connections)
        server.should_exit = True
        assert answer_on(idle) == b""  # our side is closed
        idle.sendall(ask(b"crossing"))
        eventually(lambda: taken == [b"crossing"])


def test_of_requests_in_one_go_the_last_closes_the_connection(leave, has_begun, eventually):
    server, address, _ = leave()
    with socket.create_connection(address, timeout=10) as eager:
        eager.sendall(ask(b"slow"))
        eventually(lambda: taken == [b"slow"])
        has_begun(server)
        eager.sendall(ask(b"two") + ask(b"three"))
        (connection,) = server.server_state.connections
        eventually(lambda: len(connection.pipeline) == 2)
        may_answer.set()
        answer = answer_on(eager)
    assert [piece.rpartition(b"\n")[2] for piece in answer.split(b"HTTP/1.1")[1:]] == [b"slow", b"two", b"three"]
    assert answer.count(b"connection: close") == 1


def test_a_head_that_has_begun_is_not_cut_off(leave, eventually):
    server, address, _ = leave(linger=0.0, half_closed=0.0)
    request = ask(b"whole")
    with socket.create_connection(address, timeout=10) as slow, socket.create_connection(address, timeout=10) as idle:
        slow.sendall(request[:20])
        idle.sendall(ask(b"later"))
        assert idle.recv(65536).endswith(b"later")  # so what came before it has been read
        server.should_exit = True
        eventually(lambda: len(server.server_state.connections) == 1)  # the idle one was cut off
        slow.sendall(request[20:])
        assert answer_on(slow).endswith(b"whole")


def test_it_leaves_when_its_supervisor_has_gone(leave):
    _, _, thread = leave(supervisor=1)
    thread.join(10)
    assert not thread.is_alive()
