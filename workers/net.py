"""Addresses and ports of this machine."""

import socket
from ipaddress import ip_address

LOOPBACK = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Return whether a server on that address can be reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reachable(host: str) -> str:
    """Return the address at which a server can be called that listens on `host`, as a part of a URL."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104  nothing is bound here
    return f"[{host}]" if ":" in host else host


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen on a port now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(wanted: int) -> int:
    """Return the wanted port of the loopback address, or one that the kernel chooses if it is taken."""
    if is_free(LOOPBACK, wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
