"""Calls of foreign code: what it raises is returned, and how long it takes is bounded."""

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Generic, ParamSpec, Self, TypeVar

from rq.timeouts import JobTimeoutException

P = ParamSpec("P")
T = TypeVar("T")


class HandlerTimedOut(Exception):
    """Raised inside a handler that runs for longer than HANDLER_TIMEOUT."""


def call_guarded(
    function: Callable[P, T], *arguments: P.args, **named: P.kwargs
) -> tuple[T | None, BaseException | None]:
    """Call a plugin's function. Return its result and None, or None and what it raised."""
    try:
        return function(*arguments, **named), None
    except JobTimeoutException:  # RQ raises it once, and it ends the whole job
        raise
    except BaseException as raised:  # noqa: BLE001 - a plugin is foreign code: all that it raises is its own
        return None, raised


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


class HandlerDeadline:
    """Raises HandlerTimedOut in a call in the main thread when the span is over, and after each further span.

    RQ's job timeout uses the same timer: what was left of it is set again on leaving. Many calls may share one.
    """

    overruns = 0
    """How many calls of this process were interrupted, by whatever deadline."""

    def __init__(self, span: timedelta) -> None:
        self._seconds = span.total_seconds()

    def __enter__(self) -> Self:
        """Replace the timer of RQ's job timeout."""
        self._previous = signal.signal(signal.SIGALRM, self._on_alarm)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        self._outer_until = time.monotonic() + left if left else None
        return self

    def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a function within the span; no alarm comes after it has ended.

        A copy of this process that the function forked ends when it returns: it would make the next calls once more.
        """
        process = os.getpid()
        signal.setitimer(signal.ITIMER_REAL, self._seconds, self._seconds)
        try:
            return function(*arguments, **named)
        finally:
            if os.getpid() != process:
                os._exit(0)
            signal.setitimer(signal.ITIMER_REAL, 0)

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, where: TracebackType | None
    ) -> None:
        """Restore the timer."""
        signal.signal(signal.SIGALRM, self._previous)
        if self._outer_until is not None:
            signal.setitimer(signal.ITIMER_REAL, max(self._outer_until - time.monotonic(), 0.001))

    def _on_alarm(self, _signal: int, _frame: FrameType | None) -> None:
        HandlerDeadline.overruns += 1
        raise HandlerTimedOut(f"the handler ran for longer than {self._seconds:g} s")
