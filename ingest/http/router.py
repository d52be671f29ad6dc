"""The front of the house: Starlette, with a shorter way for what comes most."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest.errors import InboxUnavailable
from ingest.http.error_boundary import PROBES, ErrorBoundary
from ingest.http.webhook_endpoint import HealthEndpoints, http_error_handler
from ingest.inbox.heartbeat import Heartbeat
from ingest.metrics import Metrics


class FastPathRouter(Starlette):
    """Routes requests to doors and windows, and keeps a guard around all of them.

    A POST goes straight to its door. Starlette's own way there, through two middlewares and a list of routes, takes
    a tenth of the whole time from a request to its answer; it is left for what no door takes.
    """

    def __init__(
        self,
        endpoints: Mapping[str, ASGIApp],
        lookout: HealthEndpoints,
        metrics: Metrics,
        lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
        presence: Heartbeat,
    ) -> None:
        self.presence = presence
        sentence = InboxUnavailable.sentence
        guarded = {route: ErrorBoundary(door, metrics, sentence, route) for route, door in endpoints.items()}
        self._doors = {place: door for route, door in guarded.items() for place in (route, f"{route}/")}
        probes = {"/healthz": lookout.healthz, "/readyz": lookout.readyz, "/metrics": lookout.metrics}
        super().__init__(
            routes=[
                *(Route(place, door, methods=["POST"]) for place, door in self._doors.items()),
                *(Route(route, window) for route, window in probes.items()),
            ],
            middleware=[Middleware(ErrorBoundary, metrics=metrics, sentence=sentence, route_name=PROBES)],
            exception_handlers={HTTPException: http_error_handler},  # type: ignore[dict-item]  # it gets no other
            lifespan=lifespan,
        )
        self.router.redirect_slashes = False  # a POST that is sent elsewhere is an event that nobody sends again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in by the shorter way if it can take it."""
        door = self._doors.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (super().__call__ if door is None else door)(scope, receive, send)
