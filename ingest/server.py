"""`webhooks serve`: the application on a socket, until somebody ends it."""

import gc
import os
import signal
import socket
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from starlette.applications import Starlette

from ingest.app import create_app
from ingest.errors import SettingsError
from ingest.log import configure_logging
from ingest.protocol import DoorProtocol
from ingest.settings import Settings

log = structlog.get_logger()

BACKLOG = 2048
# Seconds. Proxies keep idle connections for 60 and more; if we closed them first, one of them would now and then send
# an event into a closed connection, and events are sent once.
KEEP_ALIVE = 75
# Seconds for requests that are on their way; with those that the relay takes then, a process ends within ten.
GRACE = 6


def serve(settings: Settings) -> None:
    """Serve until a signal. Raise SettingsError or SystemExit, with one sentence, if that cannot even begin."""
    configure_logging(settings, "serve")
    settings.require_signing()
    _require_writable(settings)
    listening = _listen(settings.host, settings.port)
    config = configured(create_app(settings))
    # What is here now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # uvicorn raises the signal once more when it has ended; the process shall end as one that did what it was told.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    host, port = listening.getsockname()[:2]
    log.info("door.opened", host=host, port=port)
    uvicorn.Server(config).run(sockets=[listening])


def configured(app: Starlette) -> uvicorn.Config:
    """Configure the server that the application runs on."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=DoorProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _require_writable(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"DATA_DIR cannot be made ({error.strerror}).") from error
    if not os.access(settings.data_dir, os.W_OK | os.X_OK):
        raise SettingsError("DATA_DIR cannot be written to.")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # the rest repeats the address
        raise SystemExit(f"Cannot listen on {host} port {port}: {reason}.") from error
