"""Everything that a node runs, in processes of its own, each started anew whenever it dies."""

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Protocol, Self

import redis

from ingest.config.settings import load_settings
from ingest.failpoints import VARIABLE, Failpoint
from tests.faults.effects import PUSHED, metadata
from tests.faults.load import KEY, Load
from tests.faults.postgres import Postgres
from tests.ports import reserve_port
from workers.dev.valkey import is_answering, valkey
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
#: How soon what has died is started again, in seconds; systemd's own default.
RESTART_AFTER = 0.1
#: Clusters are set up in threads, and Alembic keeps what it is doing in a global.
MIGRATING = threading.Lock()


class Process(Protocol):
    """What is asked of a process that was started."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> object: ...

    def send_signal(self, number: int) -> None: ...


class Launch(Protocol):
    """Starts a command in a folder, with what it says in a log."""

    def __call__(self, command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> Process: ...


def start_program(command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> Process:
    """Start a program as an operator would."""
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
    """A process that shall be running."""

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
        self._is_wanted = False
        # A trial starts and stops what the cluster watches over: two of the same would be one that nobody knows.
        self._turn = threading.Lock()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self._turn:
            self._is_wanted = True
            self._run()

    def restart_if_dead(self) -> None:
        """Start it if it has died and shall be running."""
        with self._turn:
            if self._is_wanted:
                self._run()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; whoever dies of it is started again."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it for good, or until `start`."""
        with self._turn:
            self._is_wanted = False
        if self._process is not None:
            self.kill(signal.SIGCONT)
            self.kill(number)
            self._process.wait(TIMEOUT_S)

    def _run(self) -> None:
        if not self.is_running:
            self._process = self._launch(self.command, self._folder, self._environment, self.log)


class Cluster:
    """A node or several, with a Redis and a database that are theirs alone. Use it as a context."""

    #: Events a second, on every cluster. Little, as CI has two cores for three clusters.
    rate = 5.0
    #: How our own processes are started.
    launch: ClassVar[Launch] = staticmethod(start_program)

    def __init__(  # noqa: PLR0913 - what clusters differ in
        self,
        database: str = SQLITE,
        *,
        nodes: int = 1,
        serves: int = 1,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
        launcher: tuple[str, ...] = ("-m", "workers.cli"),
        is_plain: bool = True,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.database = database
        self._launcher = launcher
        self._settings = dict(settings or {})
        self._nodes, self._serves, self._workers = nodes, serves, workers
        self._is_plain = is_plain
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._watching = threading.Thread(target=self._restart_dead, daemon=True)
        self.postgres: Postgres | None = None
        self.members: dict[str, Member] = {}
        self.ports: list[int] = []
        self.redis_port = reserve_port()
        self.redis_url = f"redis://127.0.0.1:{self.redis_port}/0"
        self.skew = load_settings().clock_skew
        self.crashes = self.folder / "crashes"
        self.pushed = self.folder / "pushed"
        self.database_url = f"sqlite:///{self.folder / 'ledger.db'}"

    def __enter__(self) -> Self:
        self.crashes.mkdir()
        self.pushed.touch()
        try:
            if self.database == POSTGRESQL:
                self.postgres = Postgres(self.folder / "postgres")
                self.database_url = self.postgres.url
            with MIGRATING:
                migrate(self.database_url)
            self.engine = create_ledger_engine(self.database_url)
            metadata.create_all(self.engine)
            if self._is_plain:
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
            self._watching.start()
            for port in self.ports:
                wait_until(lambda port=port: is_answering_http(port), "the endpoint answers")
            self.load = Load(*self.ports, rate=self.rate)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if hasattr(self, "load"):
            self.load.end()
        if self._watching.is_alive():
            self._watching.join()
        for member in self.members.values():
            member.stop()
        self._kill_leftovers()
        if hasattr(self, "engine"):
            self.engine.dispose()
        if self.postgres is not None:
            self.postgres.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, **more: str) -> dict[str, str]:
        """What the processes are told; nothing of this shell's settings."""
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
            VARIABLE: str(self.crashes),
            **self._settings,
            **more,
        }

    def add(self, name: str, *arguments: str, **environment: str) -> Member:
        """Add one of our processes; it is started with the others."""
        command = [sys.executable, *self._launcher, *arguments]
        return self.add_program(name, command, self.launch, **environment)

    def add_program(self, name: str, command: list[str], launch: Launch = start_program, **environment: str) -> Member:
        with self._lock:
            member = Member(name, command, self.environment(**environment), self.folder, launch)
            self.members[name] = member
        return member

    def add_valkey(self, *options: str, folder: str = "valkey") -> Member:
        """Start the Valkey of this cluster, with whatever was left in its folder."""
        child = valkey(self.folder / "valkey.sock", self.folder / folder)
        member = self.add_program("valkey", [*child.command, "--port", str(self.redis_port), *options])
        member.start()
        wait_until(lambda: is_answering(self.redis_port), "Valkey answers")
        return member

    def arm(self, step: Failpoint) -> None:
        """Have the next process that reaches the step killed."""
        (self.crashes / step).touch()

    def has_killed(self, step: Failpoint) -> bool:
        return not (self.crashes / step).exists()

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, socket_timeout=5)

    def inboxes(self) -> Iterator[Path]:
        yield from (self.folder / f"node-{node}" / "inbox.db" for node in range(self._nodes))

    def logs(self) -> str:
        """What the processes said last."""
        return "\n".join(
            f"--- {member.name}\n{member.log.read_text(errors='replace')[-3000:]}"
            for member in self.members.values()
            if member.log.exists()
        )

    def log_of(self, name: str) -> str:
        return self.members[name].log.read_text(errors="replace")

    @contextlib.contextmanager
    def waits_for_log(self, what: str, patience: float = TIMEOUT_S) -> Iterator[None]:
        """Stay until one of our processes has said this: what nobody has noticed was no fault."""

        def count() -> int:
            return sum(self.log_of(name).count(what) for name, member in self.members.items() if member.log.exists())

        before = count()
        yield
        wait_until(lambda: count() > before, f"somebody says {what!r}", patience)

    def _add_endpoint(self, node: int, endpoint: int) -> None:
        port = reserve_port()
        self.ports.append(port)
        self.add(f"serve-{node}-{endpoint}", "serve", PORT=str(port), DATA_DIR=str(self.folder / f"node-{node}"))

    def _restart_dead(self) -> None:
        while not self._ending.wait(RESTART_AFTER):
            with self._lock:
                members = list(self.members.values())
            for member in members:
                if not self._ending.is_set():
                    member.restart_if_dead()

    def _kill_leftovers(self) -> None:
        """Kill what our processes have left behind, as all work in the folder: a worker's child has its own group."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if (entry / "cwd").readlink() == self.folder:
                        os.kill(int(entry.name), signal.SIGKILL)


def is_answering_http(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until(condition: Callable[[], object], what: str, patience: float = TIMEOUT_S) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"not within {patience:g} s: {what}"
        time.sleep(0.02)
