"""What must be so before a door is opened, and the sockets that it then listens on."""

import os
import socket

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.log import configure_logging
from ingest.server.socket_activation import listening_sockets
from ingest.server.supervisor import run_supervisor, worker_command


def bind_sockets(settings: Settings) -> list[socket.socket]:
    """Listen. Raise SettingsError or SystemExit, with one sentence, if nothing could be kept or nobody could come."""
    settings.require_signing()
    _require_writable(settings)
    return listening_sockets(settings.host, settings.port)


def serve_with_workers(settings: Settings, count: int) -> int:
    """Serve with so many processes until a signal, and return the exit code. This process loads no server itself."""
    configure_logging(settings, "supervisor")
    return run_supervisor(worker_command("ingest.server.serve"), bind_sockets(settings), count)


def _require_writable(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"DATA_DIR cannot be made ({error.strerror}).") from error
    if not os.access(settings.data_dir, os.W_OK | os.X_OK):
        raise SettingsError("DATA_DIR cannot be written to.")
