"""Periodic tasks of the clock that may be slow, such as network calls: each in a supervised thread of its own."""

import threading
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import structlog

from ingest.backoff import Backoff
from ingest.errors import WebhooksError

log = structlog.get_logger()

LONGEST_PAUSE = timedelta(minutes=1)
"""The longest backoff of a task that keeps failing, unless its interval is longer anyway."""

SHUTDOWN_TIMEOUT = timedelta(seconds=3)
"""How long the clock waits at its end for running tasks. What is cut off then has not been committed."""


class PeriodicTask(Protocol):
    """A task that is run again and again.

    A run does a bounded piece of work and commits it in a transaction. Several clocks may run the same task at once, so
    it claims in the ledger what must be done once. An exception is logged and the task is run again later; a run that
    was cut off anywhere must do no harm.
    """

    @property
    def name(self) -> str:
        """The name in the log."""

    @property
    def every(self) -> timedelta:
        """The pause between the end of a run and the next one."""

    def run(self) -> None:
        """Run once."""


class SupervisedThreads:
    """Threads that last as long as their process, started and joined together."""

    def __init__(self, threads: Sequence[threading.Thread]) -> None:
        self._threads = threads

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise RuntimeError if a thread has died: the process ends, and its supervisor starts it again."""
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        if dead:
            raise RuntimeError(f"the thread {dead[0]} has died")

    def join(self, timeout: timedelta | None = None) -> None:
        """Wait until all threads have ended, for the timeout at most."""
        deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))


class PeriodicRunner(SupervisedThreads):
    """Runs each task in a thread of its own, so that none delays another; all first runs are at once."""

    def __init__(self, tasks: Sequence[PeriodicTask]) -> None:
        self._stop = threading.Event()
        super().__init__(
            [
                threading.Thread(
                    target=run_periodically, args=(task, self._stop), name=f"task-{task.name}", daemon=True
                )
                for task in tasks
            ]
        )

    def stop(self) -> None:
        """Start no further run, and wait up to SHUTDOWN_TIMEOUT for those under way."""
        self._stop.set()
        self.join(SHUTDOWN_TIMEOUT)


def run_periodically(task: PeriodicTask, stop: threading.Event) -> None:
    """Run a task until the event is set. A failure is logged unless it is the same as the one before."""
    logged: str | None = None
    failures = 0
    while not stop.is_set():
        try:
            task.run()
        except Exception as error:  # noqa: BLE001  whatever goes wrong in one task must stop neither it nor the clock
            reason = describe_error(error)
            if reason != logged:
                log.warning("task.failed", task=task.name, reason=reason)
            logged, failures = reason, failures + 1
        else:
            if logged is not None:
                log.info("task.resumed", task=task.name)
            logged, failures = None, 0
        stop.wait(delay_after(task.every, failures).total_seconds())


def delay_after(every: timedelta, failures: int) -> timedelta:
    """Return the pause after so many failures in a row: the interval, doubled with each failure up to a minute."""
    return Backoff(every, max(every, LONGEST_PAUSE)).delay(failures + 1, jitter=0)


def describe_error(error: Exception) -> str:
    """Format an error without its values; only a WebhooksError's own sentence is safe to log."""
    if isinstance(error, WebhooksError):
        return str(error)
    steps = traceback.extract_tb(error.__traceback__)
    where = f" in {steps[-1].name}, line {steps[-1].lineno}" if steps else ""
    return f"{type(error).__name__}{where}"
