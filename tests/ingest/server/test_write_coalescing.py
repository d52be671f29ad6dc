import asyncio
import socket

import pytest
import uvloop

from ingest.server.write_coalescing import CoalescingTransport


def test_two_writes_in_one_turn_are_sent_as_one_and_everything_else_is_passed_on():
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
        await asyncio.sleep(0)
        outer.write(b"at the ")
        outer.write(b"end")
        outer.write(b"and")
        assert not outer.is_closing()
        outer.close()
        assert outer.is_closing()
        assert outer.get_extra_info("peername") == ("127.0.0.1", 1)
        await asyncio.sleep(0)
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
