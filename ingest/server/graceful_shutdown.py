"""Connection draining: a server that ends answers on the connections that it has, and closes none with a request on it.

uvicorn closes idle connections at once. A sender that reuses connections may be writing to one of them at that moment,
and Plugsurfing sends each event once.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Collection
from types import FrameType

import uvicorn
from uvicorn.server import ServerState

from ingest.server.http_protocol import BoundedHttpProtocol
from ingest.server.limits import RECEIVE_BUFFER
from ingest.server.socket_activation import notify_ready, sd_notify

# Seconds from the signal until requests that are under way are given up. The relay's last round comes on top: a process
# ends within ten.
GRACE = 6.0
# A connection is closed by its own end: with the next answer, which says `Connection: close`, or by its sender. These
# bound, in seconds, how long a silent one is waited for: one from before the signal, and one accepted after it.
IDLE_TIMEOUT = 4.0
FIRST_REQUEST_TIMEOUT = 1.0
# Then the sending side of silent connections is shut down, which tells the sender. A request that crosses with that is
# still stored.
HALF_CLOSE_TIMEOUT = 0.5
POLL_INTERVAL = 0.02
# Seconds for the answers to browsers that are under way.
BROWSER_GRACE = 2


class DrainingServerState(ServerState):
    """What the connections of a server share."""

    def __init__(self) -> None:
        super().__init__()
        self.is_draining = False


class DrainingServer(uvicorn.Server):
    """Serves until a signal arrives, or until the process that supervises it is gone.

    `on_started` is called once connections are accepted; `on_drained` in a thread once none is accepted any more, while
    those that are open still get answers. Without `waits_for_senders` idle connections are closed at once: a browser
    sends what crosses with that again.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_started: Callable[[], None] = notify_ready,
        on_drained: Callable[[], None] = lambda: None,
        supervisor: int | None = None,
        waits_for_senders: bool = True,
    ) -> None:
        super().__init__(config)
        self.server_state: DrainingServerState = DrainingServerState()
        self._on_started = on_started
        self._on_drained = on_drained
        self._supervisor = supervisor
        self._waits_for_senders = waits_for_senders

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve. SIGHUP, which a closed terminal sends, ends it in order unless it is ignored, as nohup wants it."""
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._handle_sighup)
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and call `on_started`."""
        for each in sockets or ():
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        await super().startup(sockets)
        self._on_started()

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is time to end."""
        is_orphan = self._supervisor is not None and os.getppid() != self._supervisor
        return await super().on_tick(counter) or is_orphan

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on the connections that are open, accept no others, then close them."""
        sd_notify("STOPPING=1")
        begun = self._now()
        if not self._waits_for_senders:
            self.config.timeout_graceful_shutdown = BROWSER_GRACE
            await super().shutdown(sockets)
            return
        self.server_state.is_draining = True
        connections = self._connections()
        for connection in connections:
            connection.close_after_answer()
        if self._supervisor is None:  # nobody else may be listening, so new senders are accepted while the old ones end
            await self._wait_until_closed(connections, begun + IDLE_TIMEOUT)
        for each in (*self.servers, *(sockets or ())):
            each.close()
        on_drained = asyncio.create_task(asyncio.to_thread(self._on_drained))  # it writes to the disk; answers go on
        await self._wait_until_closed(connections, begun + IDLE_TIMEOUT)
        self._half_close(connections)
        await self._wait_until_closed(self.server_state.connections, self._now() + FIRST_REQUEST_TIMEOUT)
        self._half_close(self._connections())
        await self._wait_until_closed(self.server_state.connections, self._now() + HALF_CLOSE_TIMEOUT)
        await on_drained
        self.config.timeout_graceful_shutdown = max(1, round(begun + GRACE - self._now()))
        await super().shutdown(sockets)

    def _connections(self) -> list[BoundedHttpProtocol]:
        return [each for each in self.server_state.connections if isinstance(each, BoundedHttpProtocol)]

    async def _wait_until_closed(self, connections: Collection[object], deadline: float) -> None:
        while not self.force_exit and self._now() < deadline:
            if self.server_state.connections.isdisjoint(connections):
                # What the loop accepted before it stopped listening becomes a connection in its next turn.
                await asyncio.sleep(0)
                if self.server_state.connections.isdisjoint(connections):
                    return
            await asyncio.sleep(POLL_INTERVAL)

    @staticmethod
    def _half_close(connections: Collection[BoundedHttpProtocol]) -> None:
        for connection in connections:
            connection.half_close_if_idle()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _handle_sighup(self, _signal: int, _frame: FrameType | None) -> None:
        self.should_exit = True
