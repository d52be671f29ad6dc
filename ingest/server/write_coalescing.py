"""A transport that sends an answer in one piece."""

import asyncio
from typing import Any


class CoalescingTransport(asyncio.Transport):
    """Holds the head of an answer back until its body comes, at most for one turn of the loop.

    uvicorn writes them one after the other and uvloop sends what is written at once: two system calls and two packets,
    for which the sender wakes up twice.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = b""
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]

    def write(self, data: Any) -> None:
        """Send both pieces with the second, or the first alone if no other follows in this turn."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Send what is held, and close."""
        self._flush()
        self._transport.close()

    def write_eof(self) -> None:
        """Send what is held, and say that nothing more will come; what is written from then on goes nowhere."""
        self._flush()
        self._transport.write_eof()
        self.write = _discard  # type: ignore[method-assign]

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)


def _discard(data: Any) -> None:
    """Write nowhere: nobody listens any more."""
