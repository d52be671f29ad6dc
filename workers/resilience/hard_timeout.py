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

CLEANUP_GRACE = timedelta(seconds=5)
"""How long a handler that was told to stop may take for that."""

LOOK_EVERY = 0.5

NO_DEADLINE = 0.0
MOMENT = struct.Struct("d")
# Shared with the children that are forked from here on; a worker has one at a time.
SHARED_DEADLINE = mmap.mmap(-1, MOMENT.size)


@contextmanager
def kill_after(span: timedelta) -> Iterator[None]:
    """Have this process killed if what is done here takes much longer than that."""
    _write(time.monotonic() + (span + CLEANUP_GRACE).total_seconds())
    try:
        yield
    finally:
        _write(NO_DEADLINE)


@contextmanager
def kill_on_timeout(kill: Callable[[], None]) -> Iterator[None]:
    """Kill the child that does a job, once it is late. Nothing may be forked meanwhile: there is a thread."""
    over = threading.Event()
    thread = threading.Thread(target=_monitor, args=(over, kill), name="overstay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _write(NO_DEADLINE)  # the child may have died before it could


def _monitor(over: threading.Event, kill: Callable[[], None]) -> None:
    while not over.wait(LOOK_EVERY):
        (until,) = MOMENT.unpack(SHARED_DEADLINE[:])
        if until != NO_DEADLINE and time.monotonic() > until:
            log.error("handler.overstayed", killed="the process of its job")
            _write(NO_DEADLINE)
            kill()


def _write(until: float) -> None:
    SHARED_DEADLINE[:] = MOMENT.pack(until)
