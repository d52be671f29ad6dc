import asyncio

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
