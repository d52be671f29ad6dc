"""`webhooks serve`: the application on a socket, in this process or in workers of a supervisor, until a signal."""

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import structlog
from starlette.types import ASGIApp

from ingest.config.settings import SERVE_SECTIONS, Settings, load_settings
from ingest.errors import SettingsError
from ingest.http.app import create_app
from ingest.log import configure_logging
from ingest.server.graceful_shutdown import GRACE, DrainingServer
from ingest.server.http_protocol import BoundedHttpProtocol
from ingest.server.limits import LimitedConfig, return_memory
from ingest.server.socket_activation import listening_sockets, notify_ready
from ingest.server.supervisor import WRONG_USAGE, run_supervisor
from ingest.telemetry.tracing import tracing

log = structlog.get_logger()


def serve(settings: Settings) -> None:
    """Serve until a signal. Raise SettingsError or SystemExit, with one sentence, if that is not possible."""
    _configure(settings)
    sockets = bind_sockets(settings)
    _server(settings).run(sockets)


def serve_with_workers(settings: Settings, count: int) -> int:
    """Serve with a number of processes until a signal, and return the exit code. Raise as `serve` does."""
    configure_logging(settings, "supervisor")
    return run_supervisor(worker_server, bind_sockets(settings), count, settings.data_dir)


def worker_server(supervisor: int, on_started: Callable[[], None]) -> DrainingServer:
    """Return the server of one worker, with the settings as they are now. Raise SystemExit if they are wrong."""
    try:
        settings = load_settings(*SERVE_SECTIONS)
        settings.require_signing()
    except SettingsError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(WRONG_USAGE) from None
    _configure(settings)
    return _server(settings, on_started, supervisor)


def _configure(settings: Settings) -> None:
    configure_logging(settings, "serve")
    tracing.configure(settings, "serve")


def bind_sockets(settings: Settings) -> list[socket.socket]:
    """Listen. Raise SettingsError or SystemExit, with one sentence, if no event could be stored or received."""
    settings.require_signing()
    _require_writable(settings)
    sockets = listening_sockets(settings.host, settings.port)
    for each in sockets:
        host, port = each.getsockname()[:2] if each.family != socket.AF_UNIX else (each.getsockname(), 0)
        log.info("server.listening", host=host, port=port)
    return sockets


def uvicorn_config(
    app: ASGIApp, settings: Settings, protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol
) -> LimitedConfig:
    """Return the configuration of the server that the application runs on."""
    return LimitedConfig(
        app,
        settings,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the endpoints do that, see ingest.wire.client_address
        timeout_graceful_shutdown=round(GRACE),
    )


def _require_writable(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"DATA_DIR cannot be made ({error.strerror}).") from error
    if not os.access(settings.data_dir, os.W_OK | os.X_OK):
        raise SettingsError("DATA_DIR cannot be written to.")


def _server(
    settings: Settings, on_started: Callable[[], None] = notify_ready, supervisor: int | None = None
) -> DrainingServer:
    app = create_app(settings)
    prepare_process()
    config, beat_last = uvicorn_config(app, settings), app.heartbeat.beat_last
    return DrainingServer(config, on_started=on_started, on_drained=beat_last, supervisor=supervisor)


def prepare_process() -> None:
    """Prepare a process to serve: set up garbage collection and memory, and exit with 0 on a signal."""
    gc.collect()
    gc.freeze()
    return_memory()
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises the signal again when it has ended
        signal.signal(number, _exit_cleanly)


def _exit_cleanly(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
