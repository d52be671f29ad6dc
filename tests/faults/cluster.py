"""A cluster: the processes of one or more nodes, each restarted whenever it dies, with their Redis and database."""

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Protocol, Self

import redis

from ingest.config.settings import load_settings
from ingest.failpoints import VARIABLE, Failpoint
from ingest.queue.redis_client import connect_queues
from tests.faults.effects import PUSHED, metadata
from tests.faults.load import KEY, Connect, Load, connect_loopback
from tests.faults.postgres import Postgres
from tests.ports import reserve_port
from workers.dev.valkey import is_answering, valkey
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.identity import ledger_id

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
#: Seconds until a process that has died is restarted; systemd's default.
RESTART_AFTER_S = 0.1
#: Clusters are set up in threads, and Alembic keeps its context in a global.
MIGRATION_LOCK = threading.Lock()


class Process(Protocol):
    """The part of `subprocess.Popen` that a member needs."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> object: ...

    def send_signal(self, number: int) -> None: ...


class Launch(Protocol):
    """Starts a command in a folder, with its output in a log."""

    def __call__(self, command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> Process: ...


def start_program(command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> Process:
    """Start a program in a session of its own."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class Member:
    """A process that is restarted when it dies, until it is stopped."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], folder: Path, launch: Launch
    ) -> None:
        self.name = name
        self.command = command
        self._launch = launch
        self._environment = dict(environment)
        self._folder = folder
        self.log = folder / f"{name}.log"
        self._process: Process | None = None
        self._should_run = False
        # A trial and the thread that restarts the dead may both start it: two at once would leave one unsupervised.
        self._start_lock = threading.Lock()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self._start_lock:
            self._should_run = True
            self._run()

    def restart_if_dead(self) -> None:
        """Restart it if it has died and was not stopped."""
        with self._start_lock:
            if self._should_run:
                self._run()

    def restart_with(self, **environment: str) -> None:
        """End it as an operator does, and start it with other variables."""
        self.stop(signal.SIGTERM)
        self._environment |= environment
        self.start()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; if it dies of it, it is restarted."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it until `start` is called."""
        with self._start_lock:
            self._should_run = False
        if self._process is not None:
            self.kill(signal.SIGCONT)
            self.kill(number)
            self._process.wait(TIMEOUT_S)

    def _run(self) -> None:
        if not self.is_running:
            self._process = self._launch(self.command, self._folder, self._environment, self.log)


class Cluster:
    """One or more nodes with a Redis and a database of their own, under load. A context manager."""

    #: Events a second on every cluster; few, since CI has two cores for three clusters.
    rate = 5.0
    #: Connections of the load of every cluster.
    connections = 4
    #: How our processes are started.
    launch: ClassVar[Launch] = staticmethod(start_program)
    #: How its database is run, if it is PostgreSQL.
    postgres_type: ClassVar[type[Postgres]] = Postgres

    def __init__(  # noqa: PLR0913 - one argument for each difference between clusters
        self,
        database: str = SQLITE,
        *,
        nodes: int = 1,
        serves: int = 1,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
        launcher: tuple[str, ...] = ("-m", "workers.cli"),
        has_valkey: bool = True,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.database = database
        self._launcher = launcher
        self._settings = dict(settings or {})
        self._nodes, self._serves, self._workers = nodes, serves, workers
        self._has_valkey = has_valkey
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._restarting = threading.Thread(target=self._keep_running, daemon=True)
        self.postgres: Postgres | None = None
        self.members: dict[str, Member] = {}
        self.ports: list[int] = []
        self.redis_port = reserve_port()
        self.redis_url = f"redis://127.0.0.1:{self.redis_port}/0"
        self.skew = load_settings().clock_skew
        self.failpoints = self.folder / "failpoints"
        self.pushed = self.folder / "pushed"
        self.database_url = f"sqlite:///{self.folder / 'ledger.db'}"

    def __enter__(self) -> Self:
        self.failpoints.mkdir()
        self.pushed.touch()
        try:
            if self.database == POSTGRESQL:
                self.postgres = self.start_postgres(self.folder / "postgres")
                self.database_url = self.postgres.url
            self.migrate()
            self.engine = create_ledger_engine(self.database_url)
            metadata.create_all(self.engine)
            if self._has_valkey:
                self.add_valkey()
            for node in range(self._nodes):
                for endpoint in range(self._serves):
                    self._add_endpoint(node, endpoint)
            for number in range(self._workers):
                self.add(f"work-{number}", "work")
            self.add("clock", "clock")
            for member in self.members.values():
                if not member.is_running:
                    member.start()
            self._restarting.start()
            for port in self.ports:
                wait_until(lambda port=port: is_answering_http(port, self.connect), "the endpoint answers")
            self.load = Load(*self.ports, rate=self.rate, connections=self.connections, connect=self.connect)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing.set()
        if hasattr(self, "load"):
            self.load.end()
        if self._restarting.is_alive():
            self._restarting.join()
        for member in self.members.values():
            member.stop()
        self.kill_leftovers()
        if hasattr(self, "engine"):
            self.engine.dispose()
        if self.postgres is not None:
            self.postgres.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_postgres(self, folder: Path) -> Postgres:
        return self.postgres_type(folder)

    def connect(self, port: int, timeout_s: float) -> http.client.HTTPConnection:
        """Return a connection to an endpoint; it is opened by its first request."""
        return connect_loopback(port, timeout_s)

    def migrate(self) -> None:
        """Create the tables of the ledger."""
        with MIGRATION_LOCK:
            migrate(self.database_url)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of our processes, without the settings of this shell."""
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "PLUGSURFING_HMAC_CURRENT": KEY.decode(),
            "DATA_DIR": str(self.folder / "node-0"),
            "REDIS_URL": self.redis_url,
            "DATABASE_URL": self.database_url,
            "HANDLER_MODULES": "tests.faults.effects",
            "PUSH": "file",
            "LOG_FORMAT": "json",
            PUSHED: str(self.pushed),
            VARIABLE: str(self.failpoints),
            **self._settings,
            **more,
        }

    def add(self, name: str, *arguments: str, **environment: str) -> Member:
        """Add a `webhooks` command; it is started with the others."""
        command = [sys.executable, *self._launcher, *arguments]
        return self.add_program(name, command, self.launch, **environment)

    def add_program(self, name: str, command: list[str], launch: Launch = start_program, **environment: str) -> Member:
        with self._lock:
            member = Member(name, command, self.environment(**environment), self.folder, launch)
            self.members[name] = member
        return member

    def add_valkey(self, *options: str, folder: str = "valkey") -> Member:
        """Start the Valkey of this cluster on the data in its folder."""
        child = valkey(self.folder / "valkey.sock", self.folder / folder)
        member = self.add_program("valkey", [*child.command, "--port", str(self.redis_port), *options])
        member.start()
        wait_until(lambda: is_answering(self.redis_port), "Valkey answers")
        return member

    def arm(self, failpoint: Failpoint) -> None:
        """Arm a failpoint: the next process that hits it is killed."""
        (self.failpoints / failpoint).touch()

    def has_fired(self, failpoint: Failpoint) -> bool:
        return not (self.failpoints / failpoint).exists()

    def redis(self) -> redis.Redis:
        return connect_queues(self.redis_url, ledger_id(self.engine))

    def inboxes(self) -> Iterator[Path]:
        yield from (self.folder / f"node-{node}" / "inbox.db" for node in range(self._nodes))

    def logs(self) -> str:
        """Return the end of each process's log."""
        return "\n".join(
            f"--- {member.name}\n{member.log.read_text(errors='replace')[-3000:]}"
            for member in self.members.values()
            if member.log.exists()
        )

    def log_of(self, name: str) -> str:
        return self.members[name].log.read_text(errors="replace")

    @contextlib.contextmanager
    def expect_log(self, text: str, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
        """Wait at the end until one more line of our processes holds the text: the fault has had an effect."""

        def count() -> int:
            return sum(self.log_of(name).count(text) for name, member in self.members.items() if member.log.exists())

        before = count()
        yield
        wait_until(lambda: count() > before, f"{text!r} is logged", timeout_s)

    def _add_endpoint(self, node: int, endpoint: int) -> None:
        port = reserve_port()
        self.ports.append(port)
        self.add(f"serve-{node}-{endpoint}", "serve", PORT=str(port), DATA_DIR=str(self.folder / f"node-{node}"))

    def restart_dead(self) -> None:
        """Restart each process that has died. One that cannot be restarted is told of, and tried again next time."""
        with self._lock:
            members = list(self.members.values())
        for member in members:
            if not self._is_closing.is_set():
                try:
                    member.restart_if_dead()
                except Exception as error:  # noqa: BLE001 - or none would be restarted from here on
                    warnings.warn("".join(traceback.format_exception(error)), stacklevel=1)

    def _keep_running(self) -> None:
        while not self._is_closing.wait(RESTART_AFTER_S):
            self.restart_dead()

    def kill_leftovers(self) -> None:
        """Kill every process whose current folder is ours: a worker's child is in a process group of its own."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if (entry / "cwd").readlink() == self.folder:
                        os.kill(int(entry.name), signal.SIGKILL)


def is_answering_http(port: int, connect: Connect = connect_loopback) -> bool:
    connection = connect(port, 2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)
