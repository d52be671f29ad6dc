"""A fork server: it starts our processes without their imports, which are most of a start, for thousands of trials."""

import gc
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Self

from ingest import failpoints
from workers.execution import handler_durations
from workers.resilience import hard_timeout

PRELOADED = (
    *("ingest.server.serve", "uvicorn.lifespan.on", "uvicorn.loops.uvloop"),
    *(
        "workers.commands.processes",
        "workers.execution.jobs",
        "workers.execution.worker",
        "workers.clock.clock",
        "tests.faults.effects",
    ),
)
LONGEST_REQUEST = 65_536


def is_readable(descriptor: int, timeout_s: float = 0.0) -> bool:
    """Return whether a descriptor can be read from, at the latest after a timeout.

    `select.select` takes none above 1,023, and clusters whose strangers open hundreds of connections share a process.
    """
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(1000 * timeout_s))


class ForkedProcess:
    """The part of `subprocess.Popen` that a cluster needs, for a process that is not our child."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def poll(self) -> int | None:
        """Return 0 when it has ended, whatever its exit code, which only its parent knows."""
        return 0 if is_readable(self._descriptor) else None

    def wait(self, timeout: float) -> None:
        if not is_readable(self._descriptor, timeout):
            raise TimeoutError

    def send_signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._descriptor, number)


class ForkServer:
    """Starts our commands, `python -m MODULE ARGUMENT…`, for any thread. A context manager."""

    def __enter__(self) -> Self:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Failpoints are switched on when they are imported; each child sets a folder of its own for them.
        environment = {**os.environ, failpoints.VARIABLE: os.devnull}
        with theirs:
            command = [sys.executable, "-m", __spec__.name]
            self._process = subprocess.Popen(command, stdin=theirs, env=environment, cwd=Path(__file__).parents[2])
        self._lock = threading.Lock()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.wait()

    def launch(self, command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> ForkedProcess:
        _python, _m, module, *arguments = command
        command_line = [module, arguments, str(folder), dict(environment), str(log)]
        with self._lock:
            self._ours.send(json.dumps(command_line).encode())
            pid, (descriptor,), *_ = socket.recv_fds(self._ours, 32, 1)
        return ForkedProcess(int(pid), descriptor)


def main() -> None:
    """Fork a process for each request from standard input, a socket, until it is closed."""
    for module in PRELOADED:
        import_module(module)
    gc.collect()
    gc.freeze()  # or the first collection of each child copies all of it
    with socket.socket(fileno=sys.stdin.fileno()) as requests:
        while command_line := requests.recv(LONGEST_REQUEST):
            pid = os.fork()
            if pid == 0:
                exec_in_child(*json.loads(command_line))
                break
            descriptor = os.pidfd_open(pid)
            socket.send_fds(requests, [str(pid).encode()], [descriptor])
            os.close(descriptor)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass


def exec_in_child(module: str, arguments: list[str], folder: str, environment: dict[str, str], log: str) -> None:
    os.setsid()
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)):
        os.dup2(os.open(path, flags), number)
    os.dup2(1, 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    failpoints.FOLDER = Path(environment[failpoints.VARIABLE])
    # Memory that the processes of a worker share, and workers do not.
    hard_timeout.use_own_deadline()
    handler_durations.SLOTS_MEMORY = mmap.mmap(-1, len(handler_durations.SLOTS_MEMORY))
    sys.argv[1:] = arguments
    import_module(module).main()


if __name__ == "__main__":
    main()
