"""How a server leaves: it takes no new connections, answers on those it has, and closes none on which something comes.

uvicorn closes idle connections at once. A sender that keeps connections may just then be writing to one of them, and
events are sent once.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.server import ServerState

from ingest.server.http_protocol import BoundedHttpProtocol
from ingest.server.socket_activation import sd_notify

# Seconds for all that is on its way; with those that the relay takes then, a process ends within ten.
GRACE = 6
# First a connection on which a request comes gets its answer, with `Connection: close`. Where others serve on
# the same socket meanwhile, nobody waits for us.
DRAIN_TIME = 1.0
DRAIN_TIME_SUPERVISED = 3.0
# Then our side of the idle ones is closed, as a sign to whoever keeps them; what was on its way to us is still kept.
HALF_CLOSE_TIME = 0.5
LOOK_EVERY = 0.02


class DrainingServerState(ServerState):
    """What the connections of a server share."""

    def __init__(self) -> None:
        super().__init__()
        self.is_draining = False


class DrainingServer(uvicorn.Server):
    """Serves until a signal comes, or until the process that supervises it has gone.

    `leaving` is called in a thread once no more connections are taken, while those that there are still get answers.
    """

    def __init__(
        self, config: uvicorn.Config, *, on_drained: Callable[[], None] = lambda: None, supervisor: int | None = None
    ) -> None:
        super().__init__(config)
        self.server_state: DrainingServerState = DrainingServerState()
        self._leaving = on_drained
        self._supervisor = supervisor

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve. A terminal that is closed ends it in order, too."""
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup asks
            signal.signal(signal.SIGHUP, self._handle_sighup)
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open, and say so."""
        await super().startup(sockets)
        sd_notify("READY=1", f"MAINPID={os.getpid()}")

    async def on_tick(self, counter: int) -> bool:
        """Say whether it is time to leave."""
        is_orphan = self._supervisor is not None and os.getppid() != self._supervisor
        return await super().on_tick(counter) or is_orphan

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on the connections that there are, take no new ones, then close them."""
        sd_notify("STOPPING=1")
        begun = self._now()
        self.server_state.is_draining = True
        for connection in self._connections():
            connection.close_after_answer()
        if self._supervisor is None:
            # Who comes now would be turned away, by a door that is closed for as long as we take.
            await self._wait_for_connections(DRAIN_TIME)
        self._close(sockets)
        on_drained = asyncio.create_task(
            asyncio.to_thread(self._leaving)
        )  # a sign on a disk: answers do not wait for it
        if self._supervisor is not None:
            await self._wait_for_connections(DRAIN_TIME_SUPERVISED)
        for connection in self._connections():
            connection.half_close_if_idle()
        await self._wait_for_connections(HALF_CLOSE_TIME)
        await on_drained
        self.config.timeout_graceful_shutdown = max(1, round(begun + GRACE - self._now()))
        await super().shutdown(sockets)

    def _close(self, sockets: list[socket.socket] | None) -> None:
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()

    def _connections(self) -> list[BoundedHttpProtocol]:
        return [each for each in self.server_state.connections if isinstance(each, BoundedHttpProtocol)]

    async def _wait_for_connections(self, seconds: float) -> None:
        until = self._now() + seconds
        while self.server_state.connections and not self.force_exit and self._now() < until:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(LOOK_EVERY)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _handle_sighup(self, _signal: int, _frame: FrameType | None) -> None:
        self.should_exit = True
