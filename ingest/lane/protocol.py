"""The door's HTTP, with the time at which each request began: a driver waits from its first byte on."""

import time

from starlette.types import Scope

from ingest.protocol import DoorProtocol

BEGAN = "plugsurfing_webhooks.began"


class LaneProtocol(DoorProtocol):
    """Notes when a request's first byte came."""

    def on_message_begin(self) -> None:
        """Begin with a request."""
        super().on_message_begin()
        self.scope[BEGAN] = time.monotonic()  # type: ignore[literal-required]  # ASGI lets servers add what is theirs


def began(scope: Scope) -> float:
    """Say when a request began, on `time.monotonic()`; now, under a server that does not know."""
    at = scope.get(BEGAN)
    return at if isinstance(at, float) else time.monotonic()
