"""uvicorn's HTTP protocol with the time at which each request began: a driver waits from its first byte on."""

import time
from datetime import timedelta

from starlette.types import Scope

from ingest.server.http_protocol import HEAD_TIMEOUT, BoundedHttpProtocol

STARTED_AT_KEY = "plugsurfing_webhooks.started_at"
# In the state of the application's lifespan, which uvicorn shows to protocols too: the app never sees a late head.
METRICS_KEY = "metrics"


class TimedHttpProtocol(BoundedHttpProtocol):
    """Records when a request's first byte came, and closes the connection if its head is not complete in time.

    To the client a closed connection is no decision, and a response after the deadline would be worse than none.
    """

    head_timeout = HEAD_TIMEOUT
    """In seconds, from a head's first byte."""

    def data_received(self, data: bytes) -> None:
        """Reject data that a busy event loop receives after the head's deadline."""
        if self._head_timer is not None and self.loop.time() >= self._head_timer.when():
            self._head_bytes += len(data)
            self._reject_late_head()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Record the time and start the timer of the head."""
        super().on_message_begin()
        self.scope[STARTED_AT_KEY] = time.monotonic()  # type: ignore[literal-required]  # ASGI lets servers add keys
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self.head_timeout, self._reject_late_head)

    def _reject_late_head(self) -> None:
        if self._head_bytes and not self.transport.is_closing():
            self.app_state[METRICS_KEY].refused("LateHead")
        super()._close_on_timeout()


def timed_protocol(head_timeout: timedelta) -> type[TimedHttpProtocol]:
    """Return a protocol class with this timeout for the head of a request."""
    return type("TimedHttpProtocol", (TimedHttpProtocol,), {"head_timeout": head_timeout.total_seconds()})


def request_started_at(scope: Scope) -> float:
    """Return when a request began, on `time.monotonic()`; now, if the server does not know."""
    at = scope.get(STARTED_AT_KEY)
    return at if isinstance(at, float) else time.monotonic()
