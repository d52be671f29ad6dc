"""Hard timeout: a worker kills its job's process when a handler overruns and ignores its timeout.

Such a handler blocks signals or holds the interpreter, so nothing inside its process can stop it. The job writes its
deadline into shared memory, and the worker kills the process that misses it. The batch is then split, as after any
death of a worker, until the handler to blame is alone.
"""

import mmap
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog

log = structlog.get_logger()

CLEANUP_GRACE = timedelta(seconds=5)
"""How long a handler may take to clean up after its timeout was raised."""

POLL_SECONDS = 0.5
"""How often a worker checks."""

NO_DEADLINE = 0.0
DEADLINE_FORMAT = struct.Struct("d")
# Shared with the children that are forked from here on; a worker has one at a time, and a memory of its own.
_memory = [mmap.mmap(-1, DEADLINE_FORMAT.size)]


def use_own_deadline() -> None:
    """Stop sharing the deadline with the process that forked this one, for a process that forks jobs itself."""
    _memory[0] = mmap.mmap(-1, DEADLINE_FORMAT.size)


@contextmanager
def kill_after(span: timedelta) -> Iterator[None]:
    """Set the deadline of the block, after which the worker kills this process: the span and CLEANUP_GRACE."""
    _write(time.monotonic() + (span + CLEANUP_GRACE).total_seconds())
    try:
        yield
    finally:
        clear_deadline()


def is_overdue() -> bool:
    """Return whether the child has missed its deadline, and must be killed: once for each deadline."""
    (deadline,) = DEADLINE_FORMAT.unpack(_memory[0][:])
    if deadline == NO_DEADLINE or time.monotonic() <= deadline:
        return False
    log.error("handler.killed", killed="the process of its job")
    clear_deadline()
    return True


def clear_deadline() -> None:
    """Clear the deadline: a child that died could not."""
    _write(NO_DEADLINE)


def _write(deadline: float) -> None:
    _memory[0][:] = DEADLINE_FORMAT.pack(deadline)
