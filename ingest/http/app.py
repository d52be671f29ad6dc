"""The application that `webhooks serve` runs, put together."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import structlog
from starlette.applications import Starlette

from ingest.config.keyring import Keyring
from ingest.config.secret_reload import reload_forever
from ingest.config.settings import Settings
from ingest.http.health import ReadinessCheck
from ingest.http.router import FastPathRouter
from ingest.http.webhook_endpoint import HealthEndpoints, WebhookEndpoint
from ingest.inbox.corruption import corruption_mark, mark_corrupt
from ingest.inbox.heartbeat import Heartbeat
from ingest.inbox.inbox import Inbox
from ingest.inbox.quarantine import Quarantine, QuarantineWriter
from ingest.inbox.schema import FILE_NAME
from ingest.metrics import Metrics
from ingest.relay.relay import Relay
from ingest.wire.envelope import Kind

log = structlog.get_logger()

# Seconds.
CORRUPTION_POLL = 0.5

PATHS = {Kind.EVENTS: "/plugsurfing/events", Kind.CDRS: "/plugsurfing/cdrs"}


def create_app(settings: Settings, *, inbox: Inbox | None = None, relay: Relay | None = None) -> FastPathRouter:
    """Build the application with all its rooms; they open when the server starts and close when it ends."""
    path = settings.data_dir / FILE_NAME
    metrics = Metrics()
    inbox = inbox or Inbox(path, settings, metrics)
    relay = relay or Relay(path, settings)
    intake = QuarantineWriter(Quarantine(path, settings), metrics)
    keyring = Keyring(settings)
    presence = Heartbeat(path, inbox, settings.gap_shortest)

    leave = partial(_shut_down_all_processes, path)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(inbox.start)
        known = corruption_mark(path)
        inbox.on_commit(relay.wake)
        inbox.on_corruption(leave)
        relay.on_corruption(leave)
        intake.start()
        relay.start()
        duties = reload_forever(keyring.refresh), presence.run(), _exit_when_marked_corrupt(path, known)
        tasks = [asyncio.create_task(duty) for duty in duties]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            # In this order: what was kept last still gets offered, and nothing is written to a closed file.
            for stop in (presence.beat_last, presence.close, relay.stop, intake.close, inbox.close):
                await asyncio.to_thread(stop)

    doors = {
        route: WebhookEndpoint(kind, settings, keyring, inbox=inbox, intake=intake, metrics=metrics)
        for kind, route in PATHS.items()
    }
    return FastPathRouter(
        doors, HealthEndpoints(ReadinessCheck(path, inbox, relay), metrics), metrics, lifespan, presence
    )


def _shut_down_all_processes(path: Path) -> None:
    """End all processes that have the file open: the next one sets it aside, which none may do while others have it."""
    try:
        mark_corrupt(path)
    except OSError as error:
        log.warning("inbox.not_suspected", error=error.strerror)
        _terminate_self()


async def _exit_when_marked_corrupt(path: Path, known: tuple[int, int] | None) -> None:
    """Leave for a suspicion that came after this process; one that is `known` could not be settled when it began."""
    while True:
        await asyncio.sleep(CORRUPTION_POLL)
        if corruption_mark(path) not in {None, known}:
            _terminate_self()
            return


def _terminate_self() -> None:
    log.error("door.leaving", reason="the inbox file is damaged, and is set aside at the next start")
    os.kill(os.getpid(), signal.SIGTERM)
