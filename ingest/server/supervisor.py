"""Supervisor of the HTTP worker processes: owns the listening sockets and replaces workers without closing them.

It is uvicorn's, with four additions: it goes on supervising while a replacement starts and while an old worker drains,
notifies systemd, backs off when workers fail to start, and ends with the exit code of workers that never started.
"""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import count as count_up
from pathlib import Path
from socket import socket

import structlog
import uvicorn
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from ingest.backoff import Backoff
from ingest.server.socket_activation import NOTIFY_SOCKET, notify_ready, sd_notify
from ingest.worker_metrics import allocate, drop_gauges, share_metrics, shared_folder

log = structlog.get_logger()

# Seconds.
STARTUP_TIMEOUT = 30.0
DRAIN_TIMEOUT = 9.5
POLL_INTERVAL = 0.05

BACKOFF = Backoff(timedelta(milliseconds=200), timedelta(seconds=5))
# The exit code of our commands for wrong usage or settings: another start mends neither.
WRONG_USAGE = 2
MAX_FAILED_STARTS = 5

ServerFactory = Callable[[int, Callable[[], None]], uvicorn.Server]
"""Makes a worker's server from the supervisor's process id and what to call once it accepts connections."""


class WorkerProcess(Process):
    """One process that serves on the supervisor's sockets. A fresh interpreter, so it loads the code as it is now."""

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: list[socket],
        make_server: ServerFactory,
        *,
        place: int,
        metrics: Path | None,
    ) -> None:
        super().__init__(config, sockets)
        self.process.daemon = True  # it does not outlive a supervisor that fails
        self.place = place
        self._make_server = make_server
        self._metrics = metrics

    def target(self, sockets: list[socket] | None = None) -> None:
        """Serve, in the worker's process. Only the supervisor notifies systemd."""
        os.environ.pop(NOTIFY_SOCKET, None)
        if self._metrics is not None:
            share_metrics(self._metrics, self.place)
        self._make_server(os.getppid(), self._report_ready).run(sockets)

    def has_reported_ready(self) -> bool:
        """Return whether the worker has said that it accepts connections; False again once that was read."""
        return not self.parent_conn.closed and self.parent_conn.poll() and bool(self.parent_conn.recv())

    def _report_ready(self) -> None:
        self.child_conn.send(obj=True)


class Supervisor(Multiprocess):
    """Runs a number of workers on the sockets. Belongs in the main thread of a process without others."""

    def __init__(
        self, make_server: ServerFactory, sockets: list[socket], count: int, metrics: Path | None = None
    ) -> None:
        super().__init__(uvicorn.Config("", workers=count, log_config=None), sockets)
        self._make_server = make_server
        self._metrics = metrics
        # On time.monotonic(): when a worker must be ready, and when one that drains must have ended.
        self._starting: dict[Process, float] = {}
        self._draining: dict[Process, float] = {}
        self._failed_starts = 0
        self._start_after = 0.0
        self._was_ready = False
        self.exit_code = 0

    def init_processes(self) -> None:
        """Start the workers."""
        self.keep_subprocess_alive()

    def keep_subprocess_alive(self) -> None:
        """Replace workers that died, note those that became ready, kill those that are overdue."""
        self._note_ready()
        self._reap()
        self._kill_overdue()
        while self._is_understaffed() and self._start() is not None:
            pass

    def restart_all(self) -> None:
        """Replace each worker: the new one is ready before the old one is told to end.

        Stop at the first that does not become ready; the old ones then go on.
        """
        sd_notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._note_ready()  # a worker that became ready just now is one of those that go on
        outgoing = list(self.processes)
        log.info("server.reload_begun", workers=len(outgoing))
        for old in outgoing:
            new = self._start()
            while new in self._starting and not self._is_told_to_end():
                time.sleep(POLL_INTERVAL)
                self.keep_subprocess_alive()
            if self._is_told_to_end():
                return
            if new not in self.processes:
                log.error("server.reload_failed", reason="the new process did not become ready; the old ones go on")
                break
            if old in self.processes:
                self._drain(old)
        else:
            log.info("server.reloaded")
        sd_notify("READY=1")

    def terminate_all(self) -> None:
        """Stop listening, and tell all workers to end."""
        sd_notify("STOPPING=1")
        for each in self.sockets:
            each.close()
        for process in list(self.processes):
            self._drain(process)

    def join_all(self) -> None:
        """Wait until all have ended. A second signal kills those that have not."""
        while self._draining:
            if self._is_told_to_end():
                for process in self._draining:
                    process.kill()
            time.sleep(POLL_INTERVAL)
            self._reap()
            self._kill_overdue()

    handle_ttin = handle_ttou = None  # type: ignore[assignment]  # the number of workers is a setting

    def _is_told_to_end(self) -> bool:
        return not {signal.SIGTERM, signal.SIGINT}.isdisjoint(self.signal_queue)

    def _is_understaffed(self) -> bool:
        return (
            not self.should_exit.is_set()
            and len(self.processes) < self.processes_num
            and time.monotonic() >= self._start_after
        )

    def _start(self) -> Process | None:
        taken = {each.place for each in (*self.processes, *self._draining) if isinstance(each, WorkerProcess)}
        place = next(number for number in count_up() if number not in taken)
        metrics = self._metrics if self._metrics is not None and allocate(self._metrics, place) else None
        process = WorkerProcess(self.config, self.sockets, self._make_server, place=place, metrics=metrics)
        try:
            process.start()
        except OSError as error:  # no memory, too many processes: those that serve go on, and it is tried again
            log.error("worker.not_started", error=error.strerror)  # noqa: TRY400 - the traceback says nothing
            self._back_off()
            return None
        log.info("worker.started", pid=process.pid)
        self._starting[process] = time.monotonic() + STARTUP_TIMEOUT
        self.processes.append(process)
        return process

    def _drain(self, process: Process) -> None:
        self.processes.remove(process)
        self._starting.pop(process, None)
        self._draining[process] = time.monotonic() + DRAIN_TIMEOUT
        process.terminate()

    def _reap(self) -> None:
        for process in [each for each in (*self.processes, *self._draining) if not each.process.is_alive()]:
            if self._draining.pop(process, None) is None:
                self._handle_death(process)
            if self._metrics is not None and isinstance(process, WorkerProcess):
                drop_gauges(self._metrics, process.place)
            process.process.close()

    def _handle_death(self, process: Process) -> None:
        was_starting = self._starting.pop(process, None) is not None
        self.processes.remove(process)
        was = "starting" if was_starting else "ready"
        log.error("worker.died", pid=process.pid, exit_code=process.exitcode, was=was)
        if not was_starting:
            return
        self._back_off()
        # A supervisor that has never served loses nothing if it ends, and somebody notices.
        if not self._was_ready and (process.exitcode == WRONG_USAGE or self._failed_starts >= MAX_FAILED_STARTS):
            self.exit_code = max(process.exitcode or 0, 1)
            self.should_exit.set()

    def _back_off(self) -> None:
        self._failed_starts += 1
        self._start_after = time.monotonic() + BACKOFF.delay(self._failed_starts, jitter=0).total_seconds()

    def _note_ready(self) -> None:
        for process in list(self._starting):
            if isinstance(process, WorkerProcess) and process.has_reported_ready():
                del self._starting[process]
                self._failed_starts = 0
        if not self._was_ready and not self._starting and len(self.processes) >= self.processes_num:
            self._was_ready = True
            notify_ready()

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for event, deadlines in (("worker.not_ready", self._starting), ("worker.not_drained", self._draining)):
            for process, deadline in deadlines.items():
                if now > deadline:
                    log.error(event, pid=process.pid)
                    process.kill()
                    deadlines[process] = now + DRAIN_TIMEOUT  # the kernel takes its time, too


def run_supervisor(make_server: ServerFactory, sockets: list[socket], count: int, data_dir: Path = Path()) -> int:
    """Serve with a number of workers until a signal, and return the exit code. `make_server` is a module's function."""
    with shared_folder(data_dir) as metrics:
        supervisor = Supervisor(make_server, sockets, count, metrics)
        supervisor.run()
    return supervisor.exit_code
