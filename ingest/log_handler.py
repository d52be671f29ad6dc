"""Writes log lines without ever waiting for whoever reads them, and bounds those that strangers can cause."""

import contextlib
import logging
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Protocol
from weakref import WeakSet, finalize

import structlog

# What may wait for the reader, in bytes; further lines are dropped and counted.
MAX_WAITING = 1_048_576
# How long the end of a process may wait for the reader, in seconds.
EXIT_TIMEOUT = 1.0
POLL_INTERVAL = 0.1
# Lines of one event that a process logs in a span of seconds; the rest is counted.
MAX_LINES = 20
SPAN = 10.0
# Warnings of these loggers are about requests, so anybody can cause them.
REQUEST_LOGGERS = (
    "ingest.authorize",
    "ingest.http",
    "ingest.inbox.quarantine",
    "ingest.server",
    "workers.dashboard",
    "workers.devices",
    "asyncio",
    "uvicorn",
    "werkzeug",
)

log = structlog.get_logger()


class DropReason(StrEnum):
    """Why lines were not logged."""

    LIMIT = "limit"
    """Requests caused too many of one event."""
    READER = "reader"
    """Nothing read the log for a while."""


drop_listeners: list[Callable[[DropReason, int], None]] = []
"""Called with the number of lines that were dropped, after the line that says so."""


class NonBlockingHandler(logging.Handler):
    """Writes each line at once if the descriptor accepts it, so that not even a crash loses it.

    A full pipe, socket or terminal does not: then lines wait, in a bounded number of bytes, and a thread writes them
    when the reader is back. All else is dropped, and the count is logged.
    """

    def __init__(self, descriptor: int, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding
        own, self._write = _open_writer(descriptor)
        if own is not None:
            finalize(self, os.close, own).atexit = False  # the last lines are written after that
        self._descriptor = descriptor if own is None else own
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        _clear_after_fork().add(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or have it wait, or drop it."""
        try:
            line = f"{self.format(record)}\n".encode(self._encoding, "backslashreplace")
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)
            return
        if self._waiting_bytes + len(line) > MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._write_waiting()
        if self._waiting and self._thread is None:
            self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Wait until everything is written, at most for EXIT_TIMEOUT: called at the end of the process."""
        for each in self.filters:
            if isinstance(each, RequestLineLimit):
                each.report()
        until = time.monotonic() + EXIT_TIMEOUT
        while self._waiting and time.monotonic() < until:
            self._wait_for_reader()
            self._write_locked()

    def forget(self) -> None:
        """Forget the lines that wait: in a new process they are its parent's."""
        self._waiting.clear()
        self._waiting_bytes = self._dropped = 0
        self._thread = None

    def _write_waiting(self) -> None:
        while self._waiting:
            try:
                written = self._write(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:  # the reader is gone for good, and with it all that could be told
                written = len(self._waiting[0])
            self._waiting_bytes -= written
            if written < len(self._waiting[0]):
                self._waiting[0] = self._waiting[0][written:]
            else:
                self._waiting.popleft()

    def _drain(self) -> None:
        while True:
            self._wait_for_reader()
            if self._write_locked():
                break
        dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("log.dropped", count=dropped, reason="nothing read the log for a while")
            _notify(DropReason.READER, dropped)

    def _wait_for_reader(self) -> None:
        poller = select.poll()  # one for each wait: two threads cannot poll with the same one
        poller.register(self._descriptor, select.POLLOUT)
        poller.poll(POLL_INTERVAL * 1000)

    def _write_locked(self) -> bool:
        """Write what waits, as another thread than the one that logs; return whether nothing waits any more."""
        self.acquire()
        try:
            self._write_waiting()
            if not self._waiting:
                self._thread = None
            return not self._waiting
        finally:
            self.release()


class RequestLineLimit(logging.Filter):
    """Drops all but MAX_LINES in SPAN of each warning that requests cause, and logs how many it dropped."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._counts: dict[str, int] = {}
        self._until = 0.0
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        _clear_after_fork().add(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        if record.levelno < logging.WARNING or not record.name.startswith(REQUEST_LOGGERS):
            return True
        event = str(record.msg["event"] if isinstance(record.msg, dict) else record.msg)
        with self._lock:
            now = self._monotonic()
            ended = self._end_span(now)
            count = self._counts[event] = self._counts.get(event, 0) + 1
            if count > MAX_LINES and self._timer is None:
                self._timer = threading.Timer(self._until - now, self.report)
                self._timer.daemon = True
                self._timer.start()
        _log_suppressed(ended)
        return count <= MAX_LINES

    def report(self) -> None:
        """End the span, and log what was dropped in it."""
        with self._lock:
            ended = self._end_span(float("inf"))
        _log_suppressed(ended)

    def forget(self) -> None:
        """Forget what was counted: in a new process that is its parent's."""
        self._lock = threading.Lock()
        self._counts, self._until, self._timer = {}, 0.0, None

    def _end_span(self, now: float) -> dict[str, int]:
        if now < self._until:
            return {}
        ended, self._counts, self._until = self._counts, {}, self._monotonic() + SPAN
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return {event: count - MAX_LINES for event, count in ended.items() if count > MAX_LINES}


class _Forgetful(Protocol):
    def forget(self) -> None: ...


@cache
def _clear_after_fork() -> WeakSet[_Forgetful]:
    cleared: WeakSet[_Forgetful] = WeakSet()

    def clear() -> None:
        for each in list(cleared):
            each.forget()

    os.register_at_fork(after_in_child=clear)
    return cleared


def _log_suppressed(counts: dict[str, int]) -> None:
    for event, count in counts.items():
        log.warning("log.suppressed", suppressed=event, count=count, reason=f"{MAX_LINES} lines in {SPAN:g} s")
        _notify(DropReason.LIMIT, count)


def _notify(reason: DropReason, count: int) -> None:
    for listener in drop_listeners:
        listener(reason, count)


def _open_writer(descriptor: int) -> tuple[int | None, Callable[[bytes], int]]:
    """Return a function that writes without blocking, and the descriptor that was opened for it if one was.

    A flag of the descriptor itself would change it for every process that shares it. So a pipe or a terminal is opened
    again, and a socket is asked in each call; where that fails, at most what a ready pipe surely has room for is
    written. Files never block.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        connection = socket.socket(fileno=os.dup(descriptor))
        return None, lambda data: connection.send(data, socket.MSG_DONTWAIT)
    if not stat.S_ISFIFO(mode) and not os.isatty(descriptor):
        return None, lambda data: os.write(descriptor, data)
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        reopened = os.open(f"/proc/self/fd/{descriptor}", flags)
        return reopened, lambda data: os.write(reopened, data)
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)

    def write_if_ready(data: bytes) -> int:
        if not poller.poll(0):
            raise BlockingIOError
        return os.write(descriptor, data[: select.PIPE_BUF])

    return None, write_if_ready
