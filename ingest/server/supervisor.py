"""`webhooks serve --workers N`: the parent of the processes that serve, whose listening socket outlives each of them.

SIGHUP replaces them one after the other: the new one is ready before the old one is told to leave. One that dies is
replaced at once. Not uvicorn's supervisor: that one attends to nothing else while an old process leaves, looks only
twice a second whether one has died, and leaves its children behind when it is killed.
"""

import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from types import FrameType, TracebackType
from typing import Self

import structlog

from ingest.server.socket_activation import NotifySocket, _recv_nowait, sd_notify, spawn_with_sockets

log = structlog.get_logger()

# Seconds.
STARTUP_TIMEOUT = 30.0
DRAIN_TIMEOUT = 9.5
LOOK_EVERY = 0.2
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0

SIGNALS = (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
# The exit code of our commands for wrong usage or settings: another start mends neither.
WRONG_USAGE = 2
FAILED_STARTS = 5


class WorkerState(Enum):
    """How far one worker has come."""

    STARTING = auto()
    """It was started and is not ready yet."""
    READY = auto()
    """It takes connections."""
    DRAINING = auto()
    """It was told to leave, and answers what it has."""


@dataclass(slots=True)
class Worker:
    """One process that serves."""

    pid: int
    stage: WorkerState = WorkerState.STARTING
    since: float = field(default_factory=time.monotonic)


class Supervisor:
    """Keeps so many workers serving on the sockets. To be run in the main thread of a process with no other."""

    def __init__(self, command: Sequence[str], sockets: Sequence[socket.socket], count: int) -> None:
        self._command = list(command)
        self._sockets = list(sockets)
        self._count = count
        self._workers: dict[int, Worker] = {}
        self._reloads = False
        self._outgoing: list[int] = []
        self._failed_starts = 0
        self._start_at = 0.0
        self._ends = False
        self._was_ready = False
        self.exit_code = 0

    def __enter__(self) -> Self:
        """Hear signals, and workers that say that they are ready."""
        self._ear = NotifySocket()
        self._signals: deque[int] = deque()
        self._wakeup_r, self._wakeup_w = socket.socketpair()
        for each in (self._wakeup_r, self._wakeup_w):
            each.setblocking(False)  # noqa: FBT003 - it takes no name
        signal.set_wakeup_fd(self._wakeup_w.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Leave nothing behind."""
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for each in (self._wakeup_r, self._wakeup_w, self._ear):
            each.close()

    def run(self) -> int:
        """Keep them until a signal asks for the end; return the exit code. A second signal kills what is left."""
        while not self._ends or self._workers:
            self._step()
            select.select([self._ear.fileno(), self._wakeup_r.fileno()], [], [], LOOK_EVERY)
            while _recv_nowait(self._wakeup_r):
                pass
            while self._signals:
                self._handle_signal(signal.Signals(self._signals.popleft()))
        return self.exit_code

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _step(self) -> None:
        self._reap()
        self._read_notifications()
        self._kill_overdue()
        if self._ends:
            return
        self._replace()
        while self._is_understaffed() and time.monotonic() >= self._start_at:
            self._start()

    def _handle_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP and not self._ends:
            self._begin_reload()
        elif number in {signal.SIGTERM, signal.SIGINT}:
            for worker in self._workers.values():
                self._tell(worker, signal.SIGKILL if self._ends else signal.SIGTERM)
            self._end()

    def _end(self) -> None:
        self._ends = True
        sd_notify("STOPPING=1")
        for each in self._sockets:
            each.close()

    def _begin_reload(self) -> None:
        sd_notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._read_notifications()  # who has become ready just now is one of those that serve
        self._reloads = True
        self._outgoing = [pid for pid, worker in self._workers.items() if worker.stage is WorkerState.READY]
        # Who is not ready yet may have read the settings before they were changed. Nobody would miss them.
        for worker in self._workers.values():
            if worker.stage is WorkerState.STARTING:
                self._tell(worker, signal.SIGTERM)
        log.info("door.reload_begun", workers=len(self._outgoing))

    def _is_understaffed(self) -> bool:
        """Say whether there are fewer than there should be; the next in a replacement comes on top."""
        staying = sum(worker.stage is not WorkerState.DRAINING for worker in self._workers.values())
        return not self._ends and staying < self._count

    def _replace(self) -> None:
        self._outgoing = [pid for pid in self._outgoing if pid in self._workers]
        if not self._reloads or any(worker.stage is WorkerState.STARTING for worker in self._workers.values()):
            return
        if self._outgoing and self._serving() > self._count:  # the new one is ready
            self._tell(self._workers[self._outgoing.pop(0)], signal.SIGTERM)
        if self._is_understaffed():
            return
        if self._outgoing:
            self._start()
        else:
            self._end_reload()
            log.info("door.reloaded")

    def _end_reload(self) -> None:
        self._reloads, self._outgoing = False, []
        sd_notify("READY=1")

    def _serving(self) -> int:
        return sum(worker.stage is WorkerState.READY for worker in self._workers.values())

    def _reap(self) -> None:
        for pid, worker in list(self._workers.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._workers[pid]
                if worker.stage is not WorkerState.DRAINING:
                    self._note_death(worker, os.waitstatus_to_exitcode(status))

    def _note_death(self, worker: Worker, exit_code: int) -> None:
        log.error("worker.died", pid=worker.pid, exit_code=exit_code, was=worker.stage.name.lower())
        if worker.stage is WorkerState.READY:
            return
        if self._outgoing:
            self._fail_reload("the new process did not become ready; the old ones go on")
            return
        self._back_off()
        # One that has never served has nothing to lose by an end that somebody notices.
        if not self._was_ready and (exit_code == WRONG_USAGE or self._failed_starts >= FAILED_STARTS):
            self.exit_code = exit_code if exit_code > 0 else 1
            for each in self._workers.values():
                self._tell(each, signal.SIGTERM)
            self._end()

    def _back_off(self) -> None:
        """Start nothing for a while, and for longer with each failure."""
        self._failed_starts += 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failed_starts - 1, 10))
        self._start_at = time.monotonic() + pause

    def _fail_reload(self, reason: str) -> None:
        self._end_reload()
        log.error("door.reload_failed", reason=reason)

    def _read_notifications(self) -> None:
        for said in self._ear.messages():
            worker = self._workers.get(int(said["MAINPID"])) if said.get("MAINPID", "").isdecimal() else None
            if said.get("READY") == "1" and worker is not None and worker.stage is WorkerState.STARTING:
                worker.stage, worker.since = WorkerState.READY, time.monotonic()
                self._failed_starts = 0
                self._note_ready()

    def _note_ready(self) -> None:
        if not self._was_ready and self._serving() >= self._count:
            self._was_ready = True
            sd_notify("READY=1", f"MAINPID={os.getpid()}")

    def _kill_overdue(self) -> None:
        """Kill who takes too long."""
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.stage is WorkerState.STARTING and now > worker.since + STARTUP_TIMEOUT:
                log.error("worker.not_ready", pid=worker.pid)
                self._signal(worker, signal.SIGKILL)
            elif worker.stage is WorkerState.DRAINING and now > worker.since + DRAIN_TIMEOUT:
                log.error("worker.did_not_leave", pid=worker.pid)
                self._signal(worker, signal.SIGKILL)

    def _tell(self, worker: Worker, number: signal.Signals) -> None:
        if worker.stage is not WorkerState.DRAINING:
            worker.stage, worker.since = WorkerState.DRAINING, time.monotonic()
        self._signal(worker, number)

    @staticmethod
    def _signal(worker: Worker, number: signal.Signals) -> None:
        os.kill(worker.pid, number)  # it is ours and not waited for yet, so the number is nobody else's

    def _start(self) -> None:
        command = [*self._command, str(os.getpid())]
        try:
            pid = spawn_with_sockets(command, self._sockets, notify=self._ear.address, signals=SIGNALS)
        except OSError as error:  # too little memory, too many processes: those that serve go on, and it is tried again
            log.error("worker.not_started", error=error.strerror)  # noqa: TRY400 - the place says nothing
            if self._outgoing:
                self._fail_reload("no new process could be started; the old ones go on")
            self._back_off()
            return
        self._workers[pid] = Worker(pid)
        log.info("worker.started", pid=pid)


def run_supervisor(command: Sequence[str], sockets: Sequence[socket.socket], count: int) -> int:
    """Serve with so many workers, each `command` with this process's number behind it, until a signal; exit code."""
    with Supervisor(command, sockets, count) as shift:
        return shift.run()


def worker_command(module: str) -> list[str]:
    """Name the command that runs a module of ours in this Python, whatever lies in the current folder."""
    return [sys.executable, "-P", "-m", module]
