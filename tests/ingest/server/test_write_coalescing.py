import asyncio
import re
import socket

import pytest
import uvloop

from ingest.http.responses import FixedHeaders
from ingest.server.write_coalescing import CoalescingCycle, CoalescingTransport


def test_a_piece_that_is_held_is_sent_with_the_next_one_and_everything_else_is_passed_on():
    class Inner(asyncio.Transport):
        def __init__(self):
            super().__init__({"peername": ("127.0.0.1", 1)})
            self.did = []

        def write(self, data):
            self.did.append(data)

        def close(self):
            self.did.append("close")

        def is_closing(self):
            return "close" in self.did

        def pause_reading(self):
            self.did.append("pause")

        def resume_reading(self):
            self.did.append("resume")

    async def story():
        inner = Inner()
        outer = CoalescingTransport(inner)
        outer.pause_reading()
        outer.resume_reading()
        outer.write(b"alone")
        outer.holds_next = True
        outer.write(b"at the ")
        outer.write(b"end")
        outer.holds_next = True
        outer.write(b"and")
        assert not outer.is_closing()
        outer.close()
        assert outer.is_closing()
        assert outer.get_extra_info("peername") == ("127.0.0.1", 1)
        assert inner.did == ["pause", "resume", b"alone", b"at the end", b"and", "close"]

    asyncio.run(story())


@pytest.mark.parametrize("unsent", [0, 5_000_000])
def test_the_sending_side_is_shut_down_in_the_same_turn_unless_bytes_are_unsent(unsent):
    async def story():
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.settimeout(0)
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
            outer = CoalescingTransport(transport)
            if unsent:
                outer.write(bytes(unsent))
            outer.write_eof()
            if not unsent:
                assert theirs.recv(1) == b""
            received = 0
            while piece := await asyncio.get_running_loop().sock_recv(theirs, 65536):
                received += len(piece)
            assert received == unsent
            outer.close()

    uvloop.run(story())


LENGTH = (b"content-length", b"2")
VARIANTS = {"/listed": [LENGTH], "/fixed": FixedHeaders([LENGTH])}


async def respond(scope, receive, send):
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": VARIANTS[scope["path"]]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize(
    "head",
    [
        "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n",
        "POST {} HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
        "POST {0} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nPOST {0} HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_fixed_headers_are_sent_as_any_others(serving, head):
    port = serving(respond)

    def answers(path):
        requests, received = head.format(path), b""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(requests.encode())
            while received.count(b"\r\n\r\nok") < requests.count("POST"):
                received += connection.recv(65536)
        return re.sub(rb"date: [^\r]+", b"date", received)

    assert answers("/fixed") == answers("/listed")


def test_fixed_headers_are_sent_with_the_current_date():
    cycle = CoalescingCycle.__new__(CoalescingCycle)
    cycle.default_headers = [(b"date", b"one")]
    fixed = FixedHeaders([LENGTH])
    first = cycle.fixed_head(200, fixed)
    assert cycle.fixed_head(200, fixed) is first
    cycle.default_headers = [(b"date", b"two")]
    assert cycle.fixed_head(200, fixed) == first.replace(b"one", b"two")
