"""The outermost layer of the application: an unexpected error becomes a 503 for the sender and a line in the log."""

import asyncio
import traceback
from http import HTTPStatus
from typing import Protocol

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest.http.responses import CONNECTION_CLOSE, RETRY_AFTER, send_error

log = structlog.get_logger()

# The route names of everything beside the endpoints.
PROBES = "probes"
WRONG_PATH = "wrong path"


class RejectionCounter(Protocol):
    """Counts requests that came to nothing."""

    def refused(self, reason: str) -> None:
        """Count one request."""


class ErrorBoundary:
    """Answers 503 when the application raises, and logs in which route and where.

    The route has a name, because the path of a request may contain a driver's key. The status is 503 and not 500:
    either means that nothing was promised and that another attempt may succeed, and whoever watches a proxy's log finds
    one status for all that was neither stored nor refused.
    """

    def __init__(self, app: ASGIApp, metrics: RejectionCounter, sentence: str, route_name: str) -> None:
        self._app = app
        self._metrics = metrics
        self._sentence = sentence
        self._route_name = route_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:  # the server is shutting down and has waited long enough
            await self._respond_unavailable(send)
        # The one thing that must hold for any bytes and any fault of ours is that there is an answer.
        except Exception as error:  # noqa: BLE001
            # Where it happened, and not its text: that may quote the body.
            stack = "".join(traceback.format_tb(error.__traceback__))
            log.error("request.failed", route=self._route_name, error=type(error).__name__, stack=stack)  # noqa: TRY400
            await self._respond_unavailable(send)

    async def _respond_unavailable(self, send: Send) -> None:
        self._metrics.refused("Unexpected")
        try:
            await send_error(send, HTTPStatus.SERVICE_UNAVAILABLE, self._sentence, RETRY_AFTER, CONNECTION_CLOSE)
        except RuntimeError:
            return  # a response had begun: the server cuts it off
