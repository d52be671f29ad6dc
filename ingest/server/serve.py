"""`webhooks serve`: the application on a socket, until somebody ends it."""

import gc
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from starlette.applications import Starlette

from ingest.config.settings import Settings, load_settings
from ingest.errors import SettingsError
from ingest.http.app import create_app
from ingest.log import configure_logging
from ingest.server.graceful_shutdown import GRACE, DrainingServer
from ingest.server.http_protocol import BoundedHttpProtocol
from ingest.server.listening import bind_sockets
from ingest.server.socket_activation import BACKLOG, inherited_sockets
from ingest.server.supervisor import WRONG_USAGE

log = structlog.get_logger()

# Seconds. Proxies keep idle connections for 60 and more; if we closed them first, one of them would now and then send
# an event into a closed connection, and events are sent once.
KEEP_ALIVE_TIMEOUT = 75


def serve(settings: Settings) -> None:
    """Serve until a signal. Raise SettingsError or SystemExit, with one sentence, if that cannot even begin."""
    configure_logging(settings, "serve")
    serve_on(settings, bind_sockets(settings))


def serve_on(settings: Settings, sockets: Sequence[socket.socket], *, supervisor: int | None = None) -> None:
    """Serve on these sockets until a signal, or until the supervisor of this number has gone."""
    app = create_app(settings)
    server = DrainingServer(uvicorn_config(app), on_drained=app.presence.beat_last, supervisor=supervisor)
    # What is here now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # uvicorn raises the signal once more when it has ended; the process shall end as one that did what it was told.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit_cleanly)
    for listening in sockets:
        host, port = listening.getsockname()[:2] if listening.family != socket.AF_UNIX else (listening.getsockname(), 0)
        log.info("door.opened", host=host, port=port)
    server.run(sockets=list(sockets))


def uvicorn_config(app: Starlette, protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol) -> uvicorn.Config:
    """Configure the server that the application runs on."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_TIMEOUT,
        timeout_graceful_shutdown=GRACE,
    )


def _exit_cleanly(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def serve_as_worker(supervisor: int) -> None:
    """Serve as one of the workers of a supervisor, on the sockets that it hands over."""
    try:
        settings = load_settings()
        settings.require_signing()
        sockets = inherited_sockets()
    except SettingsError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(WRONG_USAGE) from None
    configure_logging(settings, "serve")
    serve_on(settings, sockets, supervisor=supervisor)


if __name__ == "__main__":
    serve_as_worker(int(sys.argv[1]))
