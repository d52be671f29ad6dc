"""The clock's duties that may take their time, such as calls over the network: each in a thread beside the sweep."""

import threading
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import structlog

from ingest.errors import WebhooksError

log = structlog.get_logger()

LONGEST_PAUSE = timedelta(minutes=1)
"""How long a duty that fails again and again is left alone at most, unless its turn comes more rarely anyway."""

SHUTDOWN_TIMEOUT = timedelta(seconds=3)
"""How long the clock waits at its end for what duties are at. What is cut off then has not been committed."""


class PeriodicTask(Protocol):
    """Something to be done again and again.

    A turn does a bounded piece of work, and commits it in a transaction. Several clocks may be at the same duty at
    once: what must not be done twice is claimed in the ledger first. What a turn raises is logged, and it is tried
    again later; so a turn that was cut off anywhere must do no harm.
    """

    @property
    def name(self) -> str:
        """What logs call it."""
        ...

    @property
    def every(self) -> timedelta:
        """How long after the end of a turn the next one begins."""
        ...

    def run(self) -> None:
        """Take one turn."""
        ...


class SupervisedThreads:
    """Some such threads, begun and ended together."""

    def __init__(self, threads: Sequence[threading.Thread]) -> None:
        self._threads = threads

    def start(self) -> None:
        """Begin, all of them now."""
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise RuntimeError if a thread has ended by itself: whoever looks after the process starts it anew."""
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        if dead:
            raise RuntimeError(f"the thread {dead[0]} has died")

    def join(self, patience: timedelta | None = None) -> None:
        """Wait for the end of those that were told to stop, as long as it may take or so long at most."""
        until = None if patience is None else time.monotonic() + patience.total_seconds()
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))


class PeriodicRunner(SupervisedThreads):
    """All duties of a clock, each in a thread of its own, so that none waits for another; first turns are at once."""

    def __init__(self, duties: Sequence[PeriodicTask]) -> None:
        self._stop = threading.Event()
        super().__init__(
            [
                threading.Thread(
                    target=run_periodically, args=(duty, self._stop), name=f"duty-{duty.name}", daemon=True
                )
                for duty in duties
            ]
        )

    def stop(self) -> None:
        """Begin no turn any more, and wait a little for those that have begun."""
        self._stop.set()
        self.join(SHUTDOWN_TIMEOUT)


def run_periodically(duty: PeriodicTask, stop: threading.Event) -> None:
    """Take turns until told to stop. A failure is logged when it is not the same as the one before."""
    trouble: str | None = None
    failures = 0
    while not stop.is_set():
        try:
            duty.run()
        except Exception as failure:  # noqa: BLE001  whatever goes wrong in one duty must stop neither it nor the clock
            said = describe_error(failure)
            if said != trouble:
                log.warning("duty.failed", duty=duty.name, reason=said)
            trouble, failures = said, failures + 1
        else:
            if trouble is not None:
                log.info("duty.resumed", duty=duty.name)
            trouble, failures = None, 0
        stop.wait(delay_after(duty.every, failures).total_seconds())


def delay_after(every: timedelta, failures: int) -> timedelta:
    """Say how long to wait after so many failures in a row: it doubles, up to a minute."""
    return max(every, min(every * (1 << min(failures, 20)), LONGEST_PAUSE))


def describe_error(failure: Exception) -> str:
    """Write a failure down without its values, unless its sentence is one of ours."""
    if isinstance(failure, WebhooksError):
        return str(failure)
    steps = traceback.extract_tb(failure.__traceback__)
    where = f" in {steps[-1].name}, line {steps[-1].lineno}" if steps else ""
    return f"{type(failure).__name__}{where}"
