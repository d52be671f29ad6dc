"""Threads that are to last as long as their process: whoever looks after it hears of one that ends by itself."""

import threading
import time
from collections.abc import Sequence
from datetime import timedelta


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
