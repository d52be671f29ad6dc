"""Starts what a measurement needs, on free ports in a folder of its own, and ends all of it whatever happens."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Self

from rq import Worker

from ingest.config.sections.logging import LogLevel
from ingest.config.settings import Settings, load_settings
from ingest.errors import WebhooksError
from ingest.log import configure_logging
from ingest.queue.redis_client import connect_queues
from tests.bench.http_load import LoadResult, LoadSpec
from tests.ports import reserve_port
from workers.dev.valkey import valkey
from workers.ledger.database.migrate import migrate
from workers.resilience.process_death import set_parent_death_signal

HOST = "127.0.0.1"
KEY = "a key for measuring"
ROOT = str(Path(__file__).parents[2])
# `serve` publishes before there is a ledger.
NAMESPACE = "bench"
PATIENCE_S = 120.0
POLL_S = 0.02
WEBHOOKS = "from workers.cli import main; main()"


class BenchFailed(WebhooksError):
    """Raised when a measurement cannot be made; carries the last line that the process concerned printed."""


class Process(subprocess.Popen[bytes]):
    """A child process in a session of its own: Ctrl-C reaches the bench alone, which then ends its children."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Start the command in the folder; its output goes to a file there."""
        self.name = name
        self._output = folder / f"{name}.out"
        with self._output.open("ab") as output:
            super().__init__(
                command,
                cwd=folder,
                env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(set_parent_death_signal, os.getpid()) if sys.platform == "linux" else None,
            )

    def check(self) -> None:
        """Raise BenchFailed if the process has ended."""
        if self.poll() is not None:
            last_line = self._output.read_text(errors="replace").strip().rpartition("\n")[2]
            raise BenchFailed(f"{self.name} ended with {self.returncode}: {last_line}")

    def finish(self, patience_s: float) -> str:
        """Wait for a process that ends by itself and return its output; raise BenchFailed unless it exits with 0."""
        try:
            status = self.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"{self.name} did not end within {patience_s:.0f} s") from None
        if status:
            self.check()
        return self._output.read_text()

    def stop(self) -> None:
        """Terminate the process, after ten seconds kill its process group."""
        self.terminate()
        try:
            self.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()


class Harness:
    """A temporary folder with the processes of one measurement. Leaving the context ends them, last started first."""

    def __init__(self, database_url: str | None = None) -> None:
        """Prepare; nothing starts before the context is entered."""
        self._stack = ExitStack()
        self._database_url = database_url
        self._redis_url: str | None = None
        self.folder = Path()
        #: How our commands are started, and what is set for all of them.
        self.launcher: tuple[str, ...] = ("-c", WEBHOOKS)
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Make the folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="webhooks-bench-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._stack.close()

    def valkey(self, *, fsync: str) -> str:
        """Start a Valkey with an append-only file and return its URL; `fsync` is its `appendfsync`."""
        port = reserve_port()
        child = valkey(self.folder / "valkey.sock", self.folder / "valkey")
        process = self.start("valkey", [*child.command, "--port", str(port), "--appendfsync", fsync], {})
        wait_until(child.is_ready, "Valkey answers", process)
        self._redis_url = f"redis://{HOST}:{port}/0"
        return self._redis_url

    def settings(self) -> Settings:
        """Return the settings that the processes of this harness are started with."""
        return load_settings(
            plugsurfing_hmac_current=KEY,
            data_dir=self.folder,
            redis_url=self._redis_url,
            queue_namespace=NAMESPACE,
            **({"database_url": self._database_url} if self._database_url else {}),
        )

    def webhooks(self, *arguments: str, **environment: str) -> Process:
        """Start a command of ours as an operator would."""
        given = {
            "PLUGSURFING_HMAC_CURRENT": KEY,
            "DATA_DIR": str(self.folder),
            "REDIS_URL": self._redis_url or "",
            "QUEUE_NAMESPACE": NAMESPACE,
            "LOG_LEVEL": "warning",
            **({"DATABASE_URL": self._database_url} if self._database_url else {}),
            **self.environment,
            **environment,
        }
        return self.python(*self.launcher, *arguments, name=arguments[0], environment=given)

    def python(self, *arguments: str, name: str, environment: Mapping[str, str]) -> Process:
        """Start this Python with these arguments."""
        return self.start(name, [sys.executable, *arguments], environment)

    def load(self, spec: LoadSpec) -> Process:
        """Start a load; `load_result` waits for what came of it."""
        arguments = ("-m", "tests.bench.http_load", json.dumps(asdict(spec)))
        return self.python(*arguments, name=f"load-{spec.seed}", environment={})

    def serve(self) -> tuple[Process, int]:
        """Start `serve` and wait until it answers; return it with its port."""
        port = reserve_port()
        process = self.webhooks("serve", PORT=str(port))
        wait_for_http(process, f"http://{HOST}:{port}/healthz")
        return process, port

    def work(self, **environment: str) -> Process:
        """Make the ledger's tables, start a worker and wait until it listens to the queues."""
        settings = self.settings()
        migrate(settings.database_url)
        process = self.webhooks("work", **environment)
        with connect_queues(settings.require_redis(), NAMESPACE) as connection:
            wait_until(lambda: Worker.count(connection) > 0, "the worker is registered", process)
        return process

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Start a command in the folder, with these variables beside this shell's."""
        process = Process(name, command, self.folder, {**os.environ, **environment})
        self._stack.callback(process.stop)
        return process


def load_result(load: Process, spec: LoadSpec) -> LoadResult:
    """Wait for a load to end and return its result."""
    output = load.finish(PATIENCE_S + spec.warm_up_s + spec.seconds)
    return LoadResult(**json.loads(output.splitlines()[-1]))


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *processes: Process,
    patience_s: float = PATIENCE_S,
    every_s: float = POLL_S,
) -> None:
    """Wait for the condition; raise BenchFailed when one of the processes ends, or the time is up."""
    deadline = time.monotonic() + patience_s
    while not condition():
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            raise BenchFailed(f"{what}: not within {patience_s:.0f} s")
        time.sleep(every_s)


def wait_for_http(process: Process, url: str, *, patience_s: float = PATIENCE_S) -> None:
    """Wait until the URL answers, whatever its status."""

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return True
        except urllib.error.HTTPError:
            return True
        except (OSError, http.client.HTTPException):  # a connection to a free port may reach itself
            return False

    wait_until(answers, f"{process.name} answers on {url}", process, patience_s=patience_s)


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB; 0 if it has ended."""
    status = Path(f"/proc/{pid}/status")
    try:
        lines = status.read_text().splitlines()
    except OSError:
        if status.parent.parent.exists():
            return 0.0
        # macOS has no /proc.
        asked = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return float(asked.stdout or 0) / 1024
    return sum(float(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def children(pid: int) -> list[int]:
    """List the children of a process; none where there is no /proc."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@contextmanager
def isolated_environment() -> Iterator[None]:
    """Hide this shell's settings and `.env` for a while, and let SIGTERM end the bench with its processes."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(1)

    before = signal.signal(signal.SIGTERM, leave)
    hidden = {name: value for name, value in os.environ.items() if name.lower() in Settings.model_fields}
    with tempfile.TemporaryDirectory(prefix="webhooks-bench-") as folder, chdir(folder):
        for name in hidden:
            del os.environ[name]
        configure_logging(load_settings(log_level=LogLevel.WARNING), "bench")
        try:
            yield
        finally:
            os.environ.update(hidden)
            signal.signal(signal.SIGTERM, before)
