"""Corruption of the inbox file: the first process that opens a corrupt file renames it, and goes on with a new one.

A process that finds corruption while the file is in use marks it. All processes that have it open then shut down, and
the next one to start checks the file thoroughly.
"""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ingest.errors import InboxUnavailable
from ingest.inbox.recovery import recover
from ingest.inbox.schema import open_inbox_file

log = structlog.get_logger()

LOCK_NAME = "inbox.lock"
CORRUPTION_ERRORS = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
SQLITE_SUFFIXES = ("", "-wal", "-shm")
# Seconds: a little longer than a process may take to shut down.
SHUTDOWN_TIMEOUT = 12.0
POLL = 0.05


def lock_and_check(path: Path) -> int:
    """Return a descriptor that locks the inbox file, shared, while it is open. Raise OSError if it cannot be locked.

    A process that is alone with the file checks it first. For a marked file wait until the others have shut down.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path.parent / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + SHUTDOWN_TIMEOUT
    try:
        while not _check_alone(path, lock) and is_marked_corrupt(path) and time.monotonic() < until:
            time.sleep(POLL)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except BaseException:
        os.close(lock)
        raise
    return lock


@contextlib.contextmanager
def locked_alone(path: Path) -> Iterator[None]:
    """Lock the inbox file against every process that serves. Raise InboxUnavailable if one uses it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path.parent / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InboxUnavailable(f"`webhooks serve` runs with DATA_DIR={path.parent}: stop it first.") from None
    finally:
        os.close(lock)


def is_corruption(error: Exception) -> bool:
    """Return whether the error means that the file is corrupt."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in CORRUPTION_ERRORS


def mark_corrupt(path: Path) -> None:
    """Mark the file, so that all processes that serve shut down. Raise OSError if the mark cannot be written."""
    _mark_of(path).touch()


def is_marked_corrupt(path: Path) -> bool:
    """Return whether the file is marked as corrupt."""
    return corruption_mark(path) is not None


def corruption_mark(path: Path) -> tuple[int, int] | None:
    """Return what tells this mark from a later one; None if there is no mark."""
    with contextlib.suppress(OSError):
        mark = _mark_of(path).stat()
        return mark.st_ino, mark.st_mtime_ns
    return None


def _check_alone(path: Path, lock: int) -> bool:
    """Check the file unless another process has it locked; return whether none has."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    _check(path)
    if _recover_rows(path):
        _mark_of(path).unlink(missing_ok=True)
    return True


def _mark_of(path: Path) -> Path:
    return Path(f"{path}.suspect")


def _check(path: Path) -> None:
    if not path.exists() and _log_of(path).exists():
        # A process was killed after it had renamed the file, and before the log. SQLite would overwrite that log.
        _quarantine_file(path, "only its log is left", renamed=_orphaned_wal_owner(path))
        return
    try:
        with contextlib.closing(open_inbox_file(path)) as connection:
            # Both read every page: 80 MB, two million remembered deliveries, take a third of a second. Comparing tables
            # with their indexes, as the first does, takes several times as long.
            check = "integrity_check" if is_marked_corrupt(path) else "quick_check"
            (finding,) = connection.execute(f"PRAGMA {check}(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if not is_corruption(error):  # a full disk or a lock: a new file would not help
            return
        finding = str(error)
    if finding != "ok":
        _quarantine_file(path, finding)


def _quarantine_file(path: Path, finding: str, *, renamed: Path | None = None) -> None:
    target = renamed or path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}")
    # Logged and marked first: a process that is killed halfway is continued by the next one.
    log.error("inbox.quarantined", file=target.name, reason=finding)
    with contextlib.suppress(OSError):  # a full disk; renaming needs no space
        _mark_of(path).write_text(target.name)
    # File and log are one database, of which SQLite's `.recover` may still read much. The file is renamed first: a log
    # without a file is recognized by `_check`.
    for suffix in SQLITE_SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{target}{suffix}")


def _recover_rows(path: Path) -> bool:
    """Recover the rows of the file that was renamed, if any; return False if that has to be tried again."""
    try:
        name = _mark_of(path).read_text()
    except OSError:
        return True
    if not name or not path.with_name(name).exists():
        return True
    try:
        log.warning("inbox.recovered_rows", file=name, deliveries=recover(path.with_name(name), path))
    except (sqlite3.Error, OSError) as error:  # of the new file: `serve` starts, and the next start tries again
        log.error("inbox.recovery_failed", file=name, error=type(error).__name__)  # noqa: TRY400 - the type is enough
        return False
    return True


def _orphaned_wal_owner(path: Path) -> Path | None:
    """Return the file that was renamed last, if it has no log and the log that is left is older than the renaming."""
    files = [each for each in path.parent.glob(f"{path.name}.damaged-*") if not each.name.endswith(SQLITE_SUFFIXES[1:])]
    last = max(files, default=None)
    if last is None or _log_of(last).exists() or _log_of(path).stat().st_mtime > last.stat().st_ctime:
        return None
    return last


def _log_of(path: Path) -> Path:
    return Path(f"{path}-wal")
