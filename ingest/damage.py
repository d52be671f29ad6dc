"""A damaged inbox file, found by the first process that opens it and set aside so that service goes on."""

import contextlib
import fcntl
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ingest.inboxfile import open_inbox_file

log = structlog.get_logger()

LOCK_NAME = "inbox.lock"
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def occupy(path: Path) -> int:
    """Hold the inbox file for as long as the returned descriptor is open. Raise OSError if that is not possible.

    Whoever comes first, with no other process holding it, checks the file and sets it aside if it is damaged:
    under the feet of nobody.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path.parent / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check(path)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError:
        os.close(lock)
        raise
    return lock


def is_damage(error: Exception) -> bool:
    """Say whether a file is at fault that will not get better by itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED


def _check(path: Path) -> None:
    try:
        with contextlib.closing(open_inbox_file(path)) as connection:
            # Reads every page: 80 MB, two million remembered deliveries, take a third of a second.
            (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):  # a full disk, a lock: nothing that a new file would mend
            return
        finding = str(error)
    if finding != "ok":
        _set_aside(path, finding)


def _set_aside(path: Path, finding: str) -> None:
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    for ending in ("", "-wal", "-shm"):  # together they are one database, of which `.recover` may still read much
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{ending}").rename(f"{aside}{ending}")
    log.error(
        "inbox.set_aside", file=aside.name, reason=finding, lost="all in it that was not settled, unless recovered"
    )
