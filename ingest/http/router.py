"""The application's routes: Starlette, with a faster path for the webhook endpoints."""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest.errors import InboxUnavailable
from ingest.http.error_boundary import PROBES, WRONG_PATH, ErrorBoundary
from ingest.http.health import HealthEndpoints, http_error_handler
from ingest.inbox.heartbeat import Heartbeat
from ingest.metrics import Metrics
from ingest.wire.signature import SIGNATURE_HEADER

SIGNATURE = SIGNATURE_HEADER.encode()


class FastPathRouter(Starlette):
    """Routes requests to endpoints and probes, with an error boundary around all of them.

    A POST to an endpoint goes straight there. Starlette's two middlewares and list of routes take a tenth of the time
    from a request to its response; they serve everything else. A POST to another path with a header for a signature
    goes to `wrong_path`: Plugsurfing does not look at answers, so nobody would learn of a misspelt URL.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the application
        self,
        endpoints: Mapping[str, ASGIApp],
        wrong_path: ASGIApp,
        health: HealthEndpoints,
        metrics: Metrics,
        lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
        heartbeat: Heartbeat,
    ) -> None:
        self.heartbeat = heartbeat
        sentence = InboxUnavailable.sentence
        guarded = {route: ErrorBoundary(endpoint, metrics, sentence, route) for route, endpoint in endpoints.items()}
        self._endpoints = {path: endpoint for route, endpoint in guarded.items() for path in (route, f"{route}/")}
        self._wrong_path = ErrorBoundary(wrong_path, metrics, sentence, WRONG_PATH)
        probes = {"/healthz": health.healthz, "/readyz": health.readyz, "/metrics": health.metrics}
        super().__init__(
            routes=[
                *(Route(path, endpoint, methods=["POST"]) for path, endpoint in self._endpoints.items()),
                *(Route(path, probe) for path, probe in probes.items()),
            ],
            middleware=[Middleware(ErrorBoundary, metrics=metrics, sentence=sentence, route_name=PROBES)],
            exception_handlers={HTTPException: http_error_handler},  # type: ignore[dict-item]  # it gets no other
            lifespan=lifespan,
        )
        self.router.redirect_slashes = False  # a POST that is redirected is an event that is never sent again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the faster path if there is one."""
        endpoint: ASGIApp | None = None
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._endpoints.get(scope["path"]) or self._other_endpoint(scope)
        await (super().__call__ if endpoint is None else endpoint)(scope, receive, send)

    def _other_endpoint(self, scope: Scope) -> ASGIApp | None:
        """Return what handles a POST to a path that is no endpoint's: a proxy may have doubled a slash in it."""
        endpoint = self._endpoints.get(re.sub("/{2,}", "/", scope["path"]))
        if endpoint is None and any(name == SIGNATURE for name, _ in scope["headers"]):
            return self._wrong_path
        return endpoint
