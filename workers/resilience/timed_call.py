"""Calls of foreign code that may hang: each in a daemon thread, with a deadline for whoever waits for it."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Generic, ParamSpec, TypeVar

from workers.resilience.guarded_call import call_guarded

P = ParamSpec("P")
T = TypeVar("T")


class CallTimedOut(Exception):
    """Raised when a call has not returned in time."""

    def __init__(self) -> None:
        super().__init__("there was no answer in time")


class TimedCall(Generic[T]):
    """A call that has been started. Its thread is a daemon: a process that ends does not wait for it."""

    def __init__(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> None:
        self._result: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(
            target=lambda: self._result.put(call_guarded(function, *arguments, **named)), name="timed-call", daemon=True
        )
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not returned yet."""
        return self._thread.is_alive()

    def result(self, deadline: float) -> tuple[T | None, BaseException | None]:
        """Return what the call returned or raised; CallTimedOut if it has not when `time.monotonic()` is `deadline`."""
        try:
            return self._result.get(timeout=max(deadline - time.monotonic(), 0.0))
        except Empty:
            return None, CallTimedOut()

    def join(self) -> None:
        """Wait until it has returned, however late."""
        self._thread.join()


def deadline_in(span: timedelta) -> float:
    """Return the deadline for `TimedCall.result` that is so far away."""
    return time.monotonic() + span.total_seconds()
