"""The application that `webhooks serve` runs, assembled."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ingest.backoff import restart_forever
from ingest.config.keyring import Keyring
from ingest.config.secret_reload import reload_forever
from ingest.config.settings import Settings
from ingest.http.health import HealthEndpoints, ReadinessCheck, record_relay_forever
from ingest.http.router import FastPathRouter
from ingest.http.webhook_endpoint import WebhookEndpoint
from ingest.inbox.corruption import corruption_mark, mark_corrupt
from ingest.inbox.heartbeat import Heartbeat
from ingest.inbox.inbox import REPLACED, Inbox
from ingest.inbox.quarantine import Quarantine, QuarantineWriter
from ingest.inbox.schema import FILE_NAME
from ingest.metrics import Metrics
from ingest.relay.relay import Relay
from ingest.wire.client_address import trusted_proxies
from ingest.wire.envelope import Kind

log = structlog.get_logger()

# Seconds.
CORRUPTION_POLL = 0.5

CORRUPT = "The inbox file is damaged, and is set aside at the next start."

PATHS = {Kind.EVENTS: "/plugsurfing/events", Kind.CDRS: "/plugsurfing/cdrs"}


def create_app(settings: Settings, *, inbox: Inbox | None = None, relay: Relay | None = None) -> FastPathRouter:
    """Build the application. Its parts start and stop with the server."""
    path = settings.data_dir / FILE_NAME
    metrics = Metrics()
    inbox = inbox or Inbox(path, settings, metrics)
    relay = relay or Relay(path, settings)
    quarantine = QuarantineWriter(Quarantine(path, settings), metrics)
    keyring = Keyring(settings)
    heartbeat = Heartbeat(path, inbox, settings.gap_shortest)
    shut_down = partial(_shut_down_all_processes, path)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(inbox.start)
        known = corruption_mark(path)
        inbox.on_commit(relay.wake)
        inbox.on_corruption(shut_down)
        relay.on_corruption(shut_down)
        quarantine.start()
        relay.start()
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "keys": partial(reload_forever, keyring.refresh),
            "redaction": partial(reload_forever, inbox.refresh_redaction),
            "heartbeat": heartbeat.run,
            "relay_metrics": partial(record_relay_forever, metrics, relay),
            "file": partial(_exit_without_file, path, known, inbox),
        }
        tasks = [asyncio.create_task(restart_forever(name, loop)) for name, loop in loops.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            # In this order: the last deliveries are still published, and nothing is written to a closed file.
            for stop in (heartbeat.beat_last, heartbeat.close, relay.stop, quarantine.close, inbox.close):
                await asyncio.to_thread(stop)

    def endpoint(kind: Kind | None) -> ASGIApp:
        made = WebhookEndpoint(kind, settings, keyring, inbox=inbox, quarantine=quarantine, metrics=metrics)
        return _behind_proxies(made, settings)

    endpoints = {route: endpoint(kind) for kind, route in PATHS.items()}
    health = HealthEndpoints(ReadinessCheck(path, inbox, relay), metrics)
    return FastPathRouter(endpoints, endpoint(None), health, metrics, lifespan, heartbeat)


def _behind_proxies(endpoint: ASGIApp, settings: Settings) -> ASGIApp:
    """Wrap the application to read X-Forwarded-For, but only where the address of the sender decides something."""
    if not settings.plugsurfing_sources or not settings.forwarded_by:
        return endpoint
    # Starlette's types and uvicorn's describe the same callables.
    return ProxyHeadersMiddleware(endpoint, trusted_proxies(settings.forwarded_by))  # type: ignore[arg-type,return-value]


def _shut_down_all_processes(path: Path) -> None:
    """End all processes that have the inbox file open: only then can the next one set it aside."""
    try:
        mark_corrupt(path)
    except OSError as error:
        log.warning("inbox.mark_failed", error=error.strerror)
        _terminate_self(CORRUPT)


async def _exit_without_file(path: Path, known: tuple[int, int] | None, inbox: Inbox) -> None:
    """End this process once the file is marked corrupt, unless by the `known` mark that it started with, or is gone."""
    while True:
        await asyncio.sleep(CORRUPTION_POLL)
        if inbox.is_replaced():
            _terminate_self(REPLACED)
            return
        if corruption_mark(path) not in {None, known}:
            _terminate_self(CORRUPT)
            return


def _terminate_self(reason: str) -> None:
    log.error("server.draining", reason=reason)
    os.kill(os.getpid(), signal.SIGTERM)
