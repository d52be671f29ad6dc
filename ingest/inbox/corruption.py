"""A damaged inbox file, set aside by the first process that opens it, so that service goes on.

Whoever meets damage in a file that is in use makes it suspect. All who have it open leave then, and the next who comes
looks at it more closely.
"""

import contextlib
import fcntl
import os
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ingest.inbox.recovery import recover
from ingest.inbox.schema import open_inbox_file

log = structlog.get_logger()

LOCK_NAME = "inbox.lock"
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
SQLITE_SUFFIXES = ("", "-wal", "-shm")
# Seconds: a little longer than a process may take to leave.
SHUTDOWN_TIMEOUT = 12.0
LOOK_EVERY = 0.05


def lock_and_check(path: Path) -> int:
    """Hold the inbox file for as long as the returned descriptor is open. Raise OSError if that is not possible.

    Whoever comes first, with no other process holding it, checks the file and sets it aside if it is damaged:
    under the feet of nobody. Who comes to a suspect file waits until the others have left.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path.parent / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + SHUTDOWN_TIMEOUT
    try:
        while not _check_alone(path, lock) and is_marked_corrupt(path) and time.monotonic() < until:
            time.sleep(LOOK_EVERY)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except BaseException:
        os.close(lock)
        raise
    return lock


def is_corruption(error: Exception) -> bool:
    """Say whether a file is at fault that will not get better by itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED


def mark_corrupt(path: Path) -> None:
    """Have all who serve leave the file. Raise OSError if they cannot be told."""
    _mark_of(path).touch()


def is_marked_corrupt(path: Path) -> bool:
    """Say whether somebody has met damage in the file."""
    return corruption_mark(path) is not None


def corruption_mark(path: Path) -> tuple[int, int] | None:
    """Tell one suspicion from another, which somebody has had since; None if nobody has one."""
    with contextlib.suppress(OSError):
        mark = _mark_of(path).stat()
        return mark.st_ino, mark.st_mtime_ns
    return None


def _check_alone(path: Path, lock: int) -> bool:
    """Check the file if nobody else holds it; say whether that was so."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    _check(path)
    if _salvage(path):
        _mark_of(path).unlink(missing_ok=True)
    return True


def _mark_of(path: Path) -> Path:
    return Path(f"{path}.suspect")


def _check(path: Path) -> None:
    if not path.exists() and _log_of(path).exists():
        # Whoever set the file aside was killed before its log had gone, too. SQLite would write a new log over it.
        _quarantine_file(path, "its file is not there any more", beside=_orphaned_wal_owner(path))
        return
    try:
        with contextlib.closing(open_inbox_file(path)) as connection:
            # Reads every page: 80 MB, two million remembered deliveries, take a third of a second. To compare tables
            # with their indexes, too, takes several times as long.
            look = "integrity_check" if is_marked_corrupt(path) else "quick_check"
            (finding,) = connection.execute(f"PRAGMA {look}(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if not is_corruption(error):  # a full disk, a lock: nothing that a new file would mend
            return
        finding = str(error)
    if finding != "ok":
        _quarantine_file(path, finding)


def _quarantine_file(path: Path, finding: str, *, beside: Path | None = None) -> None:
    aside = beside or path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}")
    # Said and noted first: who is killed in the middle of it has told of it, and the next one goes on.
    log.error("inbox.quarantined", file=aside.name, reason=finding)
    with contextlib.suppress(OSError):  # a full disk; that it is set aside needs no room
        _mark_of(path).write_text(aside.name)
    # Together they are one database, of which `.recover` may still read much. The file goes first: without it, the next
    # who comes knows what the log is.
    for ending in SQLITE_SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{ending}").rename(f"{aside}{ending}")


def _salvage(path: Path) -> bool:
    """Keep what can be read of the file that was set aside, if one was; say whether that is done with."""
    try:
        name = _mark_of(path).read_text()
    except OSError:
        return True
    if not name or not path.with_name(name).exists():
        return True
    try:
        log.warning("inbox.recovered_rows", file=name, deliveries=recover(path.with_name(name), path))
    except (sqlite3.Error, OSError) as error:  # of the new file: service goes on, and the next start tries again
        log.error("inbox.recovery_failed", file=name, error=type(error).__name__)  # noqa: TRY400 - it says it all
        return False
    return True


def _orphaned_wal_owner(path: Path) -> Path | None:
    """Find the file that was set aside last, if its log was left behind: that one is older than the setting aside."""
    files = [each for each in path.parent.glob(f"{path.name}.damaged-*") if not each.name.endswith(SQLITE_SUFFIXES[1:])]
    last = max(files, default=None)
    if last is None or _log_of(last).exists() or _log_of(path).stat().st_mtime > last.stat().st_ctime:
        return None
    return last


def _log_of(path: Path) -> Path:
    return Path(f"{path}-wal")
