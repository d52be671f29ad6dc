"""The outermost ring of the application: whatever breaks inside of it, the sender hears 503 and the log says why."""

import asyncio
import traceback
from http import HTTPStatus
from typing import Protocol

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest.http.responses import CONNECTION_CLOSE, RETRY_AFTER, send_error

log = structlog.get_logger()

# What there is to see beside the doors.
PROBES = "windows"


class RejectionCounter(Protocol):
    """Counts what was not kept."""

    def refused(self, reason: str) -> None:
        """Count one request."""


class ErrorBoundary:
    """Turns an unexpected exception into 503 with a sentence, and tells the log at which place it was.

    The place is named by us: the path of a request may hold a driver's key.

    Not into 500: it means the same to the sender, that nothing was promised and that another attempt may succeed, and
    whoever watches a proxy's log finds there one status for everything that was not kept and not refused.
    """

    def __init__(self, app: ASGIApp, metrics: RejectionCounter, sentence: str, route_name: str) -> None:
        self._app = app
        self._metrics = metrics
        self._sentence = sentence
        self._place = route_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and watch."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:  # the server is shutting down and has waited long enough
            await self._respond_unavailable(send)
        # The one thing that must hold for any bytes and any fault of ours is that there is an answer.
        except Exception as error:  # noqa: BLE001
            # Where it happened, and not what it says: the text of an exception may quote the body.
            stack = "".join(traceback.format_tb(error.__traceback__))
            log.error("request.failed", place=self._place, error=type(error).__name__, stack=stack)  # noqa: TRY400
            await self._respond_unavailable(send)

    async def _respond_unavailable(self, send: Send) -> None:
        self._metrics.refused("Unexpected")
        try:
            await send_error(send, HTTPStatus.SERVICE_UNAVAILABLE, self._sentence, RETRY_AFTER, CONNECTION_CLOSE)
        except RuntimeError:
            return  # an answer had begun: the server cuts it off
