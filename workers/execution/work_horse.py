"""The work horse: a worker's child process that does one job after another, so that a handler can kill nothing else.

queue -> worker -> [work horse] -> jobs

RQ's own worker forks one for every job, which costs more than the job of a single event. Ours is replaced after it has
died, and when a job failed, a handler overran, or the process is not as it was before: see `serve_requests`.
"""

import contextlib
import contextvars
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import structlog

from ingest.telemetry.tracing import tracing
from workers.resilience.guarded_call import HandlerDeadline

log = structlog.get_logger()

MAX_JOBS = 1000
"""A work horse ends after so many jobs: whatever leaks slowly ends with it."""

MAX_GROWTH = 128 << 20
"""A work horse ends when its memory has grown by so many bytes."""

MAX_LEAKED = 100
"""A work horse ends when it has so many files and threads more than at first: a process may open 1,024 files."""

STAYS, LEAVES = b"s", b"l"
UNKNOWN_STATUS = 1 << 8
COMPARED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE)
OPEN_FILES = "/dev/fd"
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class WorkHorse:
    """The worker's side: it sends requests, one at a time, and waits until each is replied to or the process ends."""

    def __init__(self, main: Callable[[socket.socket], None]) -> None:
        """Fork the process. It calls `main` with its end of a channel, and ends when that returns."""
        self._channel, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self._channel.close()
            _run(main, theirs)
        theirs.close()
        with contextlib.suppress(OSError):  # the process does it too, but may be killed before
            os.setpgid(self.pid, self.pid)
        self.status: int | None = None
        """How the process ended, as `waitpid` has it; None while it lives."""
        self._poller = select.poll()
        self._poller.register(self._channel, select.POLLIN)
        # A process that a handler forked holds the other end of the channel, too, and may outlive this one.
        self._death = _open_process(self.pid)
        if self._death is not None:
            self._poller.register(self._death, select.POLLIN)

    def is_ready(self) -> bool:
        """Take the reply to the last request, if there was one; return whether the process takes another."""
        if self.has_ended():
            return False
        try:
            return self._channel.recv(1, socket.MSG_DONTWAIT) == STAYS
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    def send(self, request: bytes) -> None:
        """Send a request of one line. Raise OSError if the process has ended."""
        self._channel.sendall(request + b"\n")

    def wait(self, seconds: float) -> bool:
        """Wait up to so many seconds; return whether the process has replied or ended. May be interrupted and repeated.

        The reply stays in the channel until `is_ready` takes it.
        """
        self._poller.poll(seconds * 1000)
        if self._peek() == b"":  # it is dying, or a handler closed its files
            self._kill()
        return self.has_replied() or self.has_ended()

    def has_replied(self) -> bool:
        """Return whether the process has replied to the last request."""
        return bool(self._peek())

    def has_ended(self) -> bool:
        """Return whether the process has ended."""
        if self.status is None:
            self._wait(os.WNOHANG)
        return self.status is not None

    def close(self) -> None:
        """End the process, which has nothing to do."""
        self._kill()
        self._channel.close()
        if self._death is not None:
            os.close(self._death)
            self._death = None

    def _peek(self) -> bytes | None:
        try:
            return self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""

    def _kill(self) -> None:
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)
            self._wait(0)

    def _wait(self, options: int) -> None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:
            pid, status = self.pid, UNKNOWN_STATUS
        if pid:
            self.status = status


@dataclass(frozen=True)
class ProcessState:
    """What a handler can change of its process, and must not change for the handlers of the next job."""

    signal_mask: frozenset[int]
    signal_handlers: tuple[object, ...]
    folder: str | None
    environment: dict[str, str]
    overruns: int

    @classmethod
    def current(cls) -> Self:
        """Return the state of this process."""
        folder = None
        with contextlib.suppress(OSError):  # it was deleted
            folder = os.getcwd()  # noqa: PTH109 - a text is enough
        return cls(
            frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            tuple(signal.getsignal(number) for number in COMPARED_SIGNALS),
            folder,
            dict(os.environ),
            HandlerDeadline.overruns,
        )


def serve_requests(channel: socket.socket, perform: Callable[[bytes], bool]) -> None:
    """Perform requests until the worker closes the channel, or one returns False or leaves the process changed.

    Then the process is to end: also after MAX_JOBS, and when it has grown by MAX_GROWTH or MAX_LEAKED.
    Each request has context variables of its own: what a handler binds to its log lines is in no other's.
    """
    process, before, memory, held = os.getpid(), ProcessState.current(), peak_memory(), held_resources()
    with contextlib.suppress(ConnectionError), channel, channel.makefile("rb") as requests:  # its worker was killed
        for count, request in enumerate(requests, start=1):
            stays = contextvars.copy_context().run(perform, request) and ProcessState.current() == before
            if os.getpid() != process:  # a copy, which a handler forked: the original replies
                return
            stays = stays and count < MAX_JOBS and peak_memory() < memory + MAX_GROWTH
            stays = stays and held_resources() < held + MAX_LEAKED
            channel.sendall(STAYS if stays else LEAVES)
            if not stays:
                return


def peak_memory() -> int:
    """Return how many bytes of memory this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def held_resources() -> int:
    """Return how many files and threads this process has."""
    files = 0
    with contextlib.suppress(OSError):  # where there is no such folder
        files = len(os.listdir(OPEN_FILES))  # noqa: PTH208 - their names are not needed
    return files + threading.active_count()


def _open_process(pid: int) -> int | None:
    """Return a file that can be read once the process has ended; None where a system has none, or forbids it."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return None


def _run(main: Callable[[socket.socket], None], channel: socket.socket) -> None:
    code = 1
    try:
        os.setpgrp()
        main(channel)
        code = 0
    except BaseException:
        log.exception("work_horse.failed")
    finally:
        tracing.flush()
        os._exit(code)  # the child of a fork must not return into its parent's code
