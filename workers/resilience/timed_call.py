"""Calls into code that may hang: each in a thread of its own, for which nobody waits longer than they want."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Generic, ParamSpec, TypeVar

from handlers.kit.channel import PushFailed
from workers.resilience.guarded_call import call_guarded

P = ParamSpec("P")
T = TypeVar("T")


class TimedCall(Generic[T]):
    """A call that has been begun. Its thread is a daemon: a process that ends does not wait for it."""

    def __init__(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> None:
        self._result: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(
            target=lambda: self._result.put(call_guarded(function, *arguments, **named)), name="push", daemon=True
        )
        self._thread.start()

    def result(self, until: float) -> tuple[T | None, BaseException | None]:
        """Give what it returned or raised; PushFailed if that has not happened when `time.monotonic()` is `until`."""
        try:
            return self._result.get(timeout=max(until - time.monotonic(), 0.0))
        except Empty:
            return None, PushFailed("there was no answer in time")

    def join(self) -> None:
        """Wait until it has ended, however late."""
        self._thread.join()


def deadline_in(span: timedelta) -> float:
    """Say when a span that begins now is over, on the clock of `Timed.result`."""
    return time.monotonic() + span.total_seconds()
