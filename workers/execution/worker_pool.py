"""The processes of `webhooks work`: one for what is urgent, one for all events, one for the background.

queue -> [worker] -> jobs

Each does one job at a time, so a handler that takes long delays what its own process serves, and nothing else.
"""

import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import FrameType

import structlog

from ingest.backoff import Backoff
from ingest.queue.queues import BACKGROUND, QUEUES, URGENT
from workers.resilience import hard_timeout
from workers.resilience.process_death import set_parent_death_signal

log = structlog.get_logger()

EVENTS = tuple(name for name in QUEUES if name not in {URGENT, BACKGROUND})
WORKERS = ((URGENT,), (URGENT, *EVENTS), (BACKGROUND, *EVENTS))
"""The queues of each process, the most important first. The last one helps with events while the second is busy."""

BACKOFF = Backoff(timedelta(milliseconds=200), timedelta(seconds=5))
STABLE_AFTER = timedelta(minutes=1)
"""A process that lived for so long starts again at once."""


class WorkerPool:
    """Forks the processes and replaces those that end. For the main thread of a process that has no other."""

    def __init__(self, run: Callable[[Sequence[str]], None], workers: Sequence[Sequence[str]] = WORKERS) -> None:
        self._run = run
        self._to_start = list(workers)
        self._running: dict[int, tuple[Sequence[str], float]] = {}
        self._failures = 0
        self._is_stopping = False

    def run(self) -> None:
        """Run until SIGTERM or SIGINT; then wait until each process has finished its job. A second one ends them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        gc.freeze()  # what is loaded by now stays in memory that all share
        while self._to_start or self._running:
            while self._to_start and not self._is_stopping:
                self._start(self._to_start.pop())
            if not self._running:
                return
            self._wait()

    def _start(self, queues: Sequence[str]) -> None:
        # A signal that comes between the fork and the handlers of the child must neither be lost nor kill it.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._run_child(parent, queues)
        self._running[pid] = (queues, time.monotonic())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))

    def _run_child(self, parent: int, queues: Sequence[str]) -> None:
        code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
            set_parent_death_signal(parent)
            hard_timeout.use_own_deadline()
            self._run(queues)
            code = 0
        except SystemExit:
            pass  # a second signal: it has killed its job
        except BaseException:
            log.exception("worker.failed", queues=list(queues))
        finally:
            logging.shutdown()
            os._exit(code)  # the child of a fork must not return into its parent's code

    def _wait(self) -> None:
        pid, status = os.waitpid(-1, 0)
        queues, started_at = self._running.pop(pid)
        if self._is_stopping:
            return
        is_stable = time.monotonic() - started_at > STABLE_AFTER.total_seconds()
        self._failures = 1 if is_stable else self._failures + 1
        log.warning("worker.replaced", queues=list(queues), exit_code=os.waitstatus_to_exitcode(status))
        time.sleep(BACKOFF.delay(self._failures).total_seconds())
        self._to_start.append(queues)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopping = True
        self._to_start.clear()
        for pid in self._running:
            os.kill(pid, signal.SIGTERM)
