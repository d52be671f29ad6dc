"""DISK_RESERVE: disk space that new deliveries leave to the relay, which has to write in order to free any."""

import os
import sqlite3
import time
from pathlib import Path

from ingest.config.settings import Settings
from ingest.errors import InboxUnavailable

# Seconds. A check costs a few microseconds, and the interpreter lock.
RECHECK_EVERY = 0.5
# Part of the known space after which the disk is checked again: other processes write there too.
RECHECK_ABOVE = 1 / 16


class DiskReserve:
    """Refuses writes that would leave less than DISK_RESERVE. For one thread."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._size = settings.disk_reserve
        self._free = 0
        self._reserved = 0
        self._checked_at = float("-inf")

    def has_room(self, size: int) -> bool:
        """Reserve so many bytes if there is room for them by the last check of the disk; return whether there is."""
        if not self._size:
            return True
        is_known = (
            time.monotonic() < self._checked_at + RECHECK_EVERY and self._reserved + size <= self._free * RECHECK_ABOVE
        )
        self._reserved += size * is_known
        return is_known

    def reserve(self, file: sqlite3.Connection, size: int) -> None:
        """Reserve so many bytes for the transaction that has begun. Raise InboxUnavailable if there is no room.

        Raise OSError or sqlite3.Error if the disk cannot be checked.
        """
        if self.has_room(size):
            return
        now = time.monotonic()
        if self._free > 0 or now >= self._checked_at + RECHECK_EVERY:
            self._checked_at, self._free, self._reserved = now, self._check_disk(file), 0
        if self._reserved + size > self._free:
            raise InboxUnavailable("The disk has no room left but DISK_RESERVE.")
        self._reserved += size

    def _check_disk(self, file: sqlite3.Connection) -> int:
        """Return how many more bytes the file may hold.

        Neither the file nor its log shrinks, so unused space within them counts. Without it, a disk that the inbox has
        filled would stay full after everything is settled.
        """
        disk = os.statvfs(self._path.parent)
        free = disk.f_bavail * disk.f_frsize
        log = _size_of(self._log)
        page, pages, unused = (
            file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
        # Pages that are only in the log, and will make the file longer.
        due = max(0, pages * page - _size_of(self._path))
        inside = unused * page - due
        # Each has to be able to grow by itself, or a checkpoint could not copy the log into the file.
        if min(free + log, free + inside) < self._size // 2:
            return 0
        return int(free + log + inside - self._size)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
