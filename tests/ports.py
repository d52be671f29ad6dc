"""Reserved ports of the loopback address, which no other test process and no outgoing connection gets.

A reserved port has a connection in TIME_WAIT: for a minute the kernel chooses it for no other socket,
and a server that sets SO_REUSEADDR may listen on it.
"""

import socket

LOOPBACK = "127.0.0.1"
ATTEMPTS = 100


def reserve_port(wanted: int = 0) -> int:
    """Return a port that the kernel chose, or the wanted one; raise OSError when that is in use or reserved."""
    with socket.socket() as listener, socket.socket() as client:
        listener.bind((LOOPBACK, wanted))
        # Only now, since with it a reserved port could be bound a second time.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.listen(1)
        client.connect(listener.getsockname())
        listener.accept()[0].close()  # the side that closes first is the one in TIME_WAIT
        return int(listener.getsockname()[1])


def reserve_neighbours(count: int) -> int:
    """Return the first of so many reserved ports in a row."""
    for _ in range(ATTEMPTS):
        first = reserve_port()
        try:
            for port in range(first + 1, first + count):
                reserve_port(port)
        except (OSError, OverflowError):
            continue
        return first
    raise OSError(f"there are no {count} free ports in a row")
