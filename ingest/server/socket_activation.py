"""Socket activation: sockets that systemd, or another parent, has opened for this process, and notifications to it.

Both are environment variables only, so no library is needed: sd_listen_fds(3) and sd_notify(3).
"""

import contextlib
import os
import socket

from ingest.errors import SettingsError

FIRST_SOCKET = 3
# Connections that the kernel completes and that wait to be accepted.
BACKLOG = 2048
ANY_IPV6 = "::"
NOTIFY_SOCKET = "NOTIFY_SOCKET"


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Return the inherited sockets, or else listen on that address. Raise SystemExit with one sentence."""
    return inherited_sockets() or [listen(host, port)]


def inherited_sockets() -> list[socket.socket]:
    """Return the listening sockets that were opened for this process, none if there are none.

    Clear LISTEN_PID so that child processes do not inherit them. Raise SettingsError if one does not listen.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for number in range(FIRST_SOCKET, FIRST_SOCKET + int(count)):
        try:
            os.set_inheritable(number, False)  # noqa: FBT003 - it takes no name
            inherited = socket.socket(fileno=number)
            is_listening = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise SettingsError(f"LISTEN_FDS names file {number}, which is no socket.") from error
        if not is_listening or inherited.type != socket.SOCK_STREAM:
            raise SettingsError(f"LISTEN_FDS names socket {number}, which does not listen for connections.")
        inherited.setblocking(False)  # noqa: FBT003 - it takes no name
        found.append(inherited)
    return found


def sd_notify(*assignments: str) -> None:
    """Send `READY=1`, `STOPPING=1` and the like to the service manager, if there is one."""
    address = os.environ.get(NOTIFY_SOCKET)
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # A manager that is gone is no reason not to serve.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto("\n".join(assignments).encode(), address)


def notify_ready() -> None:
    """Notify the service manager that this process accepts connections."""
    sd_notify("READY=1", f"MAINPID={os.getpid()}")


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address. Raise SystemExit with one sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # All addresses means IPv4's, too: uvicorn and the kernel's default for IPv6 leave them out without a word.
        both = host == ANY_IPV6 and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # the rest repeats the address
        raise SystemExit(f"Cannot listen on {host} port {port}: {reason}.") from error
