"""The event loop of a process for its async channels: a client that a plugin keeps works in one event loop only."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta

from handlers.kit.channel import PushFailed

MARGIN = timedelta(milliseconds=250)
"""How much longer than its timeout a call may take: it is cancelled at the timeout, and then ends."""


class ChannelLoop:
    """Runs coroutines of several threads in one event loop, in a thread of its own.

    A call that blocks the loop, as `time.sleep` does, cannot be cancelled: the next one gets another loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def run(self, function: Callable[[], Awaitable[object] | object], timeout: timedelta) -> None:
        """Call the function, and wait for what it returns. Raise what it raises, TimeoutError, or PushFailed."""
        loop = self._running()
        call = asyncio.run_coroutine_threadsafe(_within(function, timeout), loop)
        try:
            call.result((timeout + MARGIN).total_seconds())
        except TimeoutError:
            if call.done():
                raise
            self._abandon(loop)
            raise PushFailed("the channel blocks its event loop: it must await, and not wait") from None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():  # a forked process has no thread of its parent
                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, name="channels", daemon=True).start()
            return self._loop

    def _abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._loop is loop:
                self._loop = None
        loop.call_soon_threadsafe(loop.stop)  # once it goes on


CHANNEL_LOOP = ChannelLoop()
"""That of this process."""


def _within(function: Callable[[], Awaitable[object] | object], timeout: timedelta) -> Coroutine[None, None, None]:
    async def call() -> None:
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                called = function()
                if isinstance(called, Awaitable):
                    await called
        except (SystemExit, KeyboardInterrupt) as exit_request:  # the event loop would end, and with it the other calls
            raise RuntimeError(f"the channel raised {type(exit_request).__name__}") from exit_request

    return call()
