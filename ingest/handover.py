"""Sockets that whoever started this process has opened for it, and the word to them that it is ready: systemd's way.

Both are environment variables only, so no library of systemd's is needed: sd_listen_fds(3) and sd_notify(3). The
supervisor of `serve` starts its workers in the same way.
"""

import contextlib
import os
import socket

from ingest.errors import SettingsError

FIRST_SOCKET = 3
BACKLOG = 2048


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Take the sockets that were handed over, or else listen on that address. Raise SystemExit with one sentence."""
    return handed_over() or [_listen(host, port)]


def handed_over() -> list[socket.socket]:
    """Take the listening sockets that were opened for this process; its own children shall not think them theirs.

    Raise SettingsError if what was handed over does not listen.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for number in range(FIRST_SOCKET, FIRST_SOCKET + int(count)):
        try:
            os.set_inheritable(number, False)  # noqa: FBT003 - it takes no name
            given = socket.socket(fileno=number)
            is_listening = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise SettingsError(f"LISTEN_FDS names file {number}, which is no socket.") from error
        if not is_listening or given.type != socket.SOCK_STREAM:
            raise SettingsError(f"LISTEN_FDS names socket {number}, which does not listen for connections.")
        given.setblocking(False)  # noqa: FBT003 - it takes no name
        found.append(given)
    return found


def tell_starter(*facts: str) -> None:
    """Tell whoever started this process how it is, if they want to know: `READY=1`, `STOPPING=1`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # Whoever asked may have gone; that is no reason not to serve.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto("\n".join(facts).encode(), address)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # the rest repeats the address
        raise SystemExit(f"Cannot listen on {host} port {port}: {reason}.") from error
