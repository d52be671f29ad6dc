"""Readiness, liveness and metrics of `serve`: whether an event could be stored now, and how far the relay is behind."""

import asyncio
import contextlib
import sqlite3
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ingest.errors import InboxUnavailable
from ingest.inbox.inbox import Inbox
from ingest.metrics import CONTENT_TYPE, Metrics
from ingest.relay.relay import Relay, RelayStatus

# In seconds. A check commits a probe row: however often it is asked for, there is no more than one in this time.
CACHE_FOR = 0.5
PROBE_TIMEOUT = 2.0
RECORD_INTERVAL = 1.0

# Counted in two partial indexes: the table itself has all the bodies in it.
UNSETTLED = """
SELECT
    (SELECT count(*) FROM deliveries WHERE batch IS NULL) + (SELECT count(*) FROM deliveries WHERE batch IS NOT NULL),
    (SELECT received_at FROM deliveries ORDER BY seq LIMIT 1)
"""

ERROR_MESSAGES = {
    HTTPStatus.NOT_FOUND: "There is nothing here.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This method is not allowed here.",
}


@dataclass(frozen=True)
class Readiness:
    """The result of one check."""

    inbox_problem: str | None
    """Why no event could be stored; None if one could."""
    unsettled: int | None
    """Deliveries that are not settled; None if that could not be read."""
    oldest_unsettled_seconds: float | None
    """How long the first of them has been waiting; 0 if there is none."""
    relay: RelayStatus


class ReadinessCheck:
    """Checks the inbox by committing a probe row to it, and asks the relay for its status."""

    def __init__(self, path: Path, inbox: Inbox, relay: Relay) -> None:
        self._path = path
        self._inbox = inbox
        self._relay = relay
        self._check: asyncio.Task[Readiness] | None = None
        self._checked_at = -CACHE_FOR

    async def check(self) -> Readiness:
        """Return the state as it is, or was up to CACHE_FOR ago."""
        now = time.monotonic()
        if self._check is None or (self._check.done() and now - self._checked_at >= CACHE_FOR):
            self._checked_at = now
            self._check = asyncio.create_task(self._run_checks())
        return await asyncio.shield(self._check)  # others may be waiting for the same check

    async def _run_checks(self) -> Readiness:
        problem = None
        try:
            await asyncio.wait_for(self._inbox.probe(), PROBE_TIMEOUT)
        except InboxUnavailable as error:
            problem = self._inbox.problem or str(error)
        except TimeoutError:
            problem = f"Nothing was written within {PROBE_TIMEOUT:g} seconds."
        unsettled, age = await asyncio.to_thread(self._unsettled)
        return Readiness(problem, unsettled, age, self._relay.status())

    def _unsettled(self) -> tuple[int | None, float | None]:
        with contextlib.suppress(sqlite3.Error):
            with contextlib.closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=1)) as file:
                count, received_at = file.execute(UNSETTLED).fetchone()
            return count, 0.0 if received_at is None else max(0.0, time.time() - received_at)
        return None, None


class HealthEndpoints:
    """Answers `/healthz`, `/readyz` and `/metrics`."""

    def __init__(self, readiness: ReadinessCheck, metrics: Metrics) -> None:
        self._readiness = readiness
        self._metrics = metrics

    async def healthz(self, _request: Request) -> Response:
        """Answer 200: the process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """Answer 200 if an event can be stored, else 503. Redis need not be up for that."""
        readiness = await self._readiness.check()
        relay = readiness.relay
        is_ready = readiness.inbox_problem is None
        return JSONResponse(
            {
                "ready": is_ready,
                "inbox": {"ok": is_ready, "error": readiness.inbox_problem, "unsettled": readiness.unsettled},
                "redis": {"ok": relay.redis_ok, "error": relay.redis_error},
                "relay": {
                    "ok": relay.error is None,
                    "error": relay.error,
                    "leader": relay.leader,
                    "held": relay.backlog,
                    "last_offer_at": relay.last_published_at.isoformat() if relay.last_published_at else None,
                },
                "oldest_unsettled_seconds": readiness.oldest_unsettled_seconds,
            },
            status_code=HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    async def metrics(self, _request: Request) -> Response:
        """Answer with Prometheus' text."""
        readiness = await self._readiness.check()
        record_relay(self._metrics, readiness.relay)
        numbers = {
            "webhooks_inbox_up": readiness.inbox_problem is None,
            "webhooks_inbox_unsettled": readiness.unsettled,
            "webhooks_inbox_oldest_unsettled_seconds": readiness.oldest_unsettled_seconds,
        }
        measured = {name: float(number) for name, number in numbers.items() if number is not None}
        text = await asyncio.to_thread(self._metrics.text, measured)
        return Response(text, media_type=CONTENT_TYPE)


async def record_relay_forever(metrics: Metrics, relay: Relay) -> None:
    """Record the state of this process's relay again and again: another worker may be the one that is asked."""
    while True:
        record_relay(metrics, relay.status())
        await asyncio.sleep(RECORD_INTERVAL)


def record_relay(metrics: Metrics, status: RelayStatus) -> None:
    """Record the state of this process's relay."""
    last = status.last_published_at
    metrics.relay(
        redis_ok=status.redis_ok,
        leader=status.leader,
        backlog=status.backlog,
        last_published=last.timestamp() if last else 0,
    )


async def http_error_handler(_request: Request, error: HTTPException) -> Response:
    """Answer a request that no route takes."""
    status = HTTPStatus(error.status_code)
    return JSONResponse({"error": ERROR_MESSAGES.get(status, status.phrase)}, status, error.headers)
