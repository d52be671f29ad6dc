"""Room on the disk of the inbox that the door leaves to the relay, which has to write in order to free any."""

import os
import sqlite3
import time
from pathlib import Path

from ingest.config.settings import Settings
from ingest.errors import InboxUnavailable

# Seconds. Asking costs a few microseconds, and the turn of whatever else the interpreter does.
ASK_EVERY = 0.5
# Where what is written takes more than this part of the room, the disk is asked before: others write there too.
RECHECK_ABOVE = 1 / 16


class DiskReserve:
    """Refuses what would leave less room than DISK_RESERVE. For one thread."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._size = settings.disk_reserve
        self._room = 0
        self._taken = 0
        self._asked_at = float("-inf")

    def has_room(self, size: int) -> bool:
        """Let so many bytes be written, if it is known without asking the disk that there is room."""
        if not self._size:
            return True
        is_known = time.monotonic() < self._asked_at + ASK_EVERY and self._taken + size <= self._room * RECHECK_ABOVE
        self._taken += size * is_known
        return is_known

    def reserve(self, file: sqlite3.Connection, size: int) -> None:
        """Let so many bytes be written in the transaction that has begun. Raise InboxUnavailable if there is no room.

        Raises OSError or sqlite3.Error if that cannot be found out.
        """
        if self.has_room(size):
            return
        now = time.monotonic()
        if self._room > 0 or now >= self._asked_at + ASK_EVERY:
            self._asked_at, self._room, self._taken = now, self._find_room(file), 0
        if self._taken + size > self._room:
            raise InboxUnavailable("The disk has no room but DISK_RESERVE.")
        self._taken += size

    def _find_room(self, file: sqlite3.Connection) -> int:
        """Find out how much more the file may hold.

        Neither the file nor its log ever shrinks: what is unused in them is room, else a disk that the inbox has
        filled would stay full after everything is settled.
        """
        disk = os.statvfs(self._path.parent)
        free = disk.f_bavail * disk.f_frsize
        log = _size_of(self._log)
        page, pages, unused = (
            file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
        # What is in the log only, and will make the file longer.
        due = max(0, pages * page - _size_of(self._path))
        inside = unused * page - due
        # Each has to be able to grow for itself, or the log could not be carried over into the file and begun anew.
        if min(free + log, free + inside) < self._size // 2:
            return 0
        return int(free + log + inside - self._size)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
