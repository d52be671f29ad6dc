"""How a worker gets rid of a handler that stays beyond its time and does not listen: signals blocked, interpreter held.

Inside of the job's process nothing can be done about such a handler. So it writes down, where the worker can read it,
until when the handler may run, and the worker kills the process that is late; as with any worker's death, its batch is
then taken apart until the one to blame is alone.
"""

import mmap
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog

log = structlog.get_logger()

CLEARING_UP = timedelta(seconds=5)
"""How long a handler that was told to stop may take for that."""

LOOK_EVERY = 0.5

NOBODY = 0.0
MOMENT = struct.Struct("d")
# Shared with the children that are forked from here on; a worker has one at a time.
UNTIL = mmap.mmap(-1, MOMENT.size)


@contextmanager
def at_most(span: timedelta) -> Iterator[None]:
    """Have this process killed if what is done here takes much longer than that."""
    _write(time.monotonic() + (span + CLEARING_UP).total_seconds())
    try:
        yield
    finally:
        _write(NOBODY)


@contextmanager
def watching(kill: Callable[[], None]) -> Iterator[None]:
    """Kill the child that does a job, once it is late. Nothing may be forked meanwhile: there is a thread."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over, kill), name="overstay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _write(NOBODY)  # the child may have died before it could


def _watch(over: threading.Event, kill: Callable[[], None]) -> None:
    while not over.wait(LOOK_EVERY):
        (until,) = MOMENT.unpack(UNTIL[:])
        if until != NOBODY and time.monotonic() > until:
            log.error("handler.overstayed", killed="the process of its job")
            _write(NOBODY)
            kill()


def _write(until: float) -> None:
    UNTIL[:] = MOMENT.pack(until)
