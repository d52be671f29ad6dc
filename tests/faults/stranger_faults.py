"""Faults that strangers and networks cause: silent connections, unfinished bodies, an unread log, idle time."""

import contextlib
import fcntl
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from ingest.inbox.schema import open_inbox_file
from ingest.wire.envelope import Kind
from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.faults.cluster import SQLITE, Cluster, Process
from tests.faults.fork_server import is_readable
from tests.faults.load import KEY, item
from tests.faults.redis_faults import wait_for_events
from tests.faults.trials import Group, Trial
from tests.ports import reserve_port

SILENT, UNFINISHED, ODD, IDLE = 1100, 60, 300, 100
#: The growth of `serve` that is allowed, in MiB, where 60 MB of unfinished bodies are sent.
MAX_GROWTH_MIB = 40
#: Seconds after which `serve` ends an idle connection.
KEEP_ALIVE_S = 1.0
SETTINGS = {"MAX_CONNECTIONS": "200", "ARRIVING_BYTES": "8388608", "KEEP_ALIVE": f"{KEEP_ALIVE_S:g}s"}
PIPE_BYTES = 4096


class PipedLogCluster(Cluster):
    """A cluster whose `serve` logs into a small pipe; a thread copies it to the log while `is_read` is set."""

    def __enter__(self) -> Self:
        self.is_read = threading.Event()
        self.is_read.set()
        return super().__enter__()

    def __exit__(self, *given: object) -> None:
        self.is_read.set()
        super().__exit__(*given)

    def _add_endpoint(self, node: int, endpoint: int) -> None:
        self.ports.append(port := reserve_port())
        member = self.add(f"serve-{node}-{endpoint}", "serve", PORT=str(port))
        member._launch = self._launch_into_pipe  # noqa: SLF001 - this one member differs

    def _launch_into_pipe(self, command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> Process:
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=writing, stderr=writing, start_new_session=True
        )
        os.close(writing)
        threading.Thread(target=self._copy, args=(reading, log), daemon=True).start()
        return process

    def _copy(self, reading: int, log: Path) -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe, log.open("ab", buffering=0) as file:
            while (self.is_read.wait(), data := pipe.read(PIPE_BYTES))[1]:
                file.write(data)


@contextlib.contextmanager
def connections(cluster: Cluster, count: int) -> Iterator[list[socket.socket]]:
    """Open connections, some of which `serve` may have closed again."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            with contextlib.suppress(ConnectionError):
                address = ("127.0.0.1", cluster.ports[0])
                opened.append(stack.enter_context(socket.create_connection(address, timeout=10)))
        yield opened


def stay_silent(cluster: Cluster) -> None:
    """Ask once on each of many connections, and keep them open."""
    with cluster.expect_log('"connections.shed"'), connections(cluster, SILENT) as opened:
        for each in opened:
            with contextlib.suppress(ConnectionError):
                each.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for_events(cluster)


def leave_bodies_unfinished(cluster: Cluster) -> None:
    """Send most of many large bodies."""
    before = _mib(cluster)
    head = b"POST /plugsurfing/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n"
    with cluster.expect_log('"bodies.dropped"'), connections(cluster, UNFINISHED) as opened:
        for each in opened:
            with contextlib.suppress(OSError):
                each.sendall(head + bytes(1_000_000))
        wait_for_events(cluster)
        assert _mib(cluster) < before + MAX_GROWTH_MIB


def stall_the_log(cluster: PipedLogCluster) -> None:
    """Stop reading the log while strangers cause lines."""
    cluster.is_read.clear()
    with connections(cluster, ODD) as opened:
        for each in opened:
            with contextlib.suppress(ConnectionError):
                each.sendall(b"\x16\x03\x01 is no HTTP\r\n\r\n")
        wait_for_events(cluster, 20)
    with cluster.expect_log('"log.suppressed"'):
        cluster.is_read.set()


def send_when_idle_ends(cluster: Cluster) -> None:
    """Send on connections at the end of their idle time: each item is kept, unless its connection was closed before."""
    items = [each for number in range(3 * IDLE) if (each := item(20_000_000 + number)).kind is Kind.EVENTS]
    crossing = []
    with connections(cluster, IDLE) as opened:
        due = []
        for each, first in zip(opened, items, strict=False):
            each.sendall(_request(first.body))
            each.recv(4096)
            due.append(time.monotonic() + KEEP_ALIVE_S + (len(due) % 21 - 10) / 1000)
        for each, second, at in zip(opened, items[IDLE:], due, strict=False):
            time.sleep(max(0.0, at - time.monotonic()))
            if not is_readable(each.fileno()):
                each.sendall(_request(second.body))
                crossing.append(second)
        wait_for_events(cluster)
    assert crossing, "every connection had been closed before"
    cluster.load.sent.update({each.id: each.session_id for each in items})
    with contextlib.closing(open_inbox_file(next(cluster.inboxes()))) as file:
        seen = {row[0] for row in file.execute("SELECT id FROM seen UNION SELECT id FROM deliveries")}
    assert not [each for each in crossing if each.id not in seen], "what crossed with the end was not kept"


def _request(body: bytes) -> bytes:
    head = f"POST /plugsurfing/events HTTP/1.1\r\nHost: x\r\n{SIGNATURE_HEADER}: {sign(body, KEY)}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _mib(cluster: Cluster) -> float:
    status = Path(f"/proc/{cluster.members['serve-0-0'].pid}/status").read_text()
    return next(float(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


GROUPS = [
    Group(
        "strangers",
        lambda: PipedLogCluster(SQLITE, settings=SETTINGS),
        [
            Trial("strangers: 1,100 silent connections at 200", stay_silent),
            Trial("strangers: 60 unfinished bodies of 1 MB", leave_bodies_unfinished),
            Trial("log: nobody reads it", stall_the_log),
            Trial("connections: used when their idle time ends", send_when_idle_ends),
        ],
    )
]
