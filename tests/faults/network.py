"""Network namespaces as hosts: a hub and its nodes, joined by links that can be cut. Nothing is left if we are killed.

A namespace has no name: the kernel removes it, with its links and addresses, once no descriptor and no process has it.
"""

import ctypes
import http.client
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from tests.faults.trials import Impossible

OWN_NAMESPACE = "/proc/thread-self/ns/net"
CLONE_NEWNET = 0x40000000  # linux/sched.h
#: Seconds until an attempt to connect counts as failed.
CONNECT_TIMEOUT_S = 1.0
DISCARD_AT_CLOSE = struct.pack("ii", 1, 0)
LIBC = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """An unnamed network namespace with a loopback address. Raises Impossible where none may be made."""

    def __init__(self) -> None:
        with _returning():
            if LIBC.unshare(CLONE_NEWNET):
                raise Impossible(f"no network namespace may be made: {os.strerror(ctypes.get_errno())}")
            self._descriptor = os.open(OWN_NAMESPACE, os.O_RDONLY)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        try:
            self.ip("link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.end()
            raise Impossible(f"`ip` of iproute2 is needed: {error}") from error

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let sockets that this thread opens, and programs that it starts, be in the namespace."""
        with _returning():
            _set_namespace(self._descriptor)
            yield

    def ip(self, *words: str) -> None:
        """Run a command of iproute2 in it."""
        with self.entered():
            subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)

    def end(self) -> None:
        os.close(self._descriptor)


@contextmanager
def _returning() -> Iterator[None]:
    """Let this thread return to the namespace that it is in."""
    own = os.open(OWN_NAMESPACE, os.O_RDONLY)
    try:
        yield
    finally:
        _set_namespace(own)
        os.close(own)


def _set_namespace(descriptor: int) -> None:
    if LIBC.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Link:
    """A link of a node to the hub, with addresses of its own at both ends."""

    def __init__(self, name: str, node: Namespace, hub: Namespace, number: int) -> None:
        self.name, self._node, self._hub = name, node, hub
        self.hub_address, self.node_address = f"10.0.{number}.1", f"10.0.{number}.2"
        try:
            hub.ip("link", "add", name, "type", "veth", "peer", "name", name, "netns", node.path)
        except subprocess.CalledProcessError as error:
            raise Impossible(f"no link may be made: {error.stderr.decode().strip()}") from error
        for end, address in ((hub, self.hub_address), (node, self.node_address)):
            end.ip("address", "add", f"{address}/30", "dev", name)
            end.ip("link", "set", name, "up")

    @contextmanager
    def down(self) -> Iterator[None]:
        """Take it down at the node, which has no route any more: new connections fail at once."""
        self._node.ip("link", "set", self.name, "down")
        try:
            yield
        finally:
            self._node.ip("link", "set", self.name, "up")

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Drop what either end sends: neither is told."""
        self._hub.ip("link", "set", self.name, "down")
        try:
            yield
        finally:
            self._hub.ip("link", "set", self.name, "up")

    @contextmanager
    def one_way(self) -> Iterator[None]:
        """Drop what the hub sends: requests arrive, and their answers are lost."""
        route = ("blackhole", f"{self.node_address}/32")
        self._hub.ip("route", "add", *route)
        try:
            yield
        finally:
            self._hub.ip("route", "delete", *route)

    def carries(self, port: int) -> bool:
        """Return whether the node can connect to a port of the hub."""
        connection = NamespaceConnection(self._node, self.hub_address, port, CONNECT_TIMEOUT_S)
        with suppress(OSError):
            connection.connect()
            connection.close()
            return True
        return False


#: How a link is cut: `Link.down`, `Link.silent` or `Link.one_way`.
Cut = Callable[[Link], AbstractContextManager[None]]


class NamespaceConnection(http.client.HTTPConnection):
    """An HTTP connection of which only the socket is in a namespace.

    Closed, it sends no more of what a cut link held back: that would arrive seconds later, while the books are read.
    """

    def __init__(self, namespace: Namespace, host: str, port: int, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._namespace = namespace

    def connect(self) -> None:
        with self._namespace.entered():
            super().connect()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DISCARD_AT_CLOSE)


class Network:
    """A hub and its nodes: each node has a link of its own to each service of the hub."""

    def __init__(self, nodes: int, services: tuple[str, ...]) -> None:
        self._namespaces: list[Namespace] = []
        try:
            self.hub = self._add()
            self.nodes = [self._add() for _ in range(nodes)]
            self.links = [
                {
                    service: Link(f"{service}-{number}", node, self.hub, number * len(services) + place)
                    for place, service in enumerate(services)
                }
                for number, node in enumerate(self.nodes)
            ]
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        while self._namespaces:
            self._namespaces.pop().end()

    def _add(self) -> Namespace:
        self._namespaces.append(Namespace())
        return self._namespaces[-1]
