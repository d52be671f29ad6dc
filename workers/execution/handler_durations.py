"""Which handlers are slow: learned by all processes of a worker, in memory that they share.

A handler that is slow runs in the background, so that it delays neither session records nor other handlers.
"""

import mmap
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

SLOW = timedelta(seconds=1)
"""A call that takes longer makes its handler slow, already while it goes on."""

REMEMBERED = 10
"""A handler stays slow for so many times the duration of its last slow call."""

SLOTS = 1024
# By a hash of the handler's name: when a call of it began that has not ended, and until when it is slow. In seconds of
# the monotonic clock, which all processes share. Handlers that share a slot are slow together, and no less right.
SLOT_FORMAT = struct.Struct("dd")
# Shared with the children that are forked from here on.
SLOTS_MEMORY = mmap.mmap(-1, SLOT_FORMAT.size * SLOTS)


@contextmanager
def timed(handler: str) -> Iterator[None]:
    """Learn from the duration of the block. A process that is killed in it has learned that the handler is slow."""
    began_at = time.monotonic()
    _write(handler, began_at, _read(handler)[1])
    try:
        yield
    finally:
        ended_at = time.monotonic()
        took, (_, slow_until) = ended_at - began_at, _read(handler)
        if took > SLOW.total_seconds():
            slow_until = max(slow_until, ended_at + took * REMEMBERED)
        _write(handler, 0.0, slow_until)


def is_slow(handler: str) -> bool:
    """Return whether a call took long lately, or has gone on for long."""
    began_at, slow_until = _read(handler)
    now = time.monotonic()
    return now < slow_until or 0 < began_at < now - SLOW.total_seconds()


def forget() -> None:
    """Forget everything that was learned, for tests."""
    SLOTS_MEMORY[:] = bytes(len(SLOTS_MEMORY))


def _read(handler: str) -> tuple[float, float]:
    began_at, slow_until = SLOT_FORMAT.unpack_from(SLOTS_MEMORY, _offset(handler))
    return began_at, slow_until


def _write(handler: str, began_at: float, slow_until: float) -> None:
    SLOT_FORMAT.pack_into(SLOTS_MEMORY, _offset(handler), began_at, slow_until)


def _offset(handler: str) -> int:
    return zlib.crc32(handler.encode()) % SLOTS * SLOT_FORMAT.size
