"""The door's HTTP, with the time at which each request began: a driver waits from its first byte on."""

import time
from datetime import timedelta

from starlette.types import Scope

from ingest.server.http_protocol import HEAD_TIMEOUT, BoundedHttpProtocol

STARTED_AT_KEY = "plugsurfing_webhooks.began"
# In the state of the application's lifespan, which uvicorn shows to protocols too: a late head comes no further.
COUNTS = "counts"


class TimedHttpProtocol(BoundedHttpProtocol):
    """Notes when a request's first byte came, and hangs up on a head that is not complete when its time is over.

    To whoever asked, a closed connection is no answer, and an answer that comes too late is worse than none.
    """

    head_timeout = HEAD_TIMEOUT
    """In seconds, from a head's first byte."""

    def data_received(self, data: bytes) -> None:
        """Take what arrived; what a loop that was busy hears too late came too late."""
        if self._head_timer is not None and self.loop.time() >= self._head_timer.when():
            self._head_bytes += len(data)
            self._give_up()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin with a request."""
        super().on_message_begin()
        self.scope[STARTED_AT_KEY] = time.monotonic()  # type: ignore[literal-required]  # ASGI lets servers add what is theirs
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self.head_timeout, self._give_up)

    def _give_up(self) -> None:
        if self._head_bytes and not self.transport.is_closing():
            self.app_state[COUNTS].refused("LateHead")
        super()._close_on_timeout()


def timed_protocol(span: timedelta) -> type[TimedHttpProtocol]:
    """Make a protocol whose requests have so much time for their heads."""
    return type("TimedLaneProtocol", (TimedHttpProtocol,), {"longest_head": span.total_seconds()})


def began(scope: Scope) -> float:
    """Say when a request began, on `time.monotonic()`; now, under a server that does not know."""
    at = scope.get(STARTED_AT_KEY)
    return at if isinstance(at, float) else time.monotonic()
