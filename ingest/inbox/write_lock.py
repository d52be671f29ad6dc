"""The write lock of the inbox file: background writes that wait for it, and checkpoints that hold it.

SQLite 3.7.0 to 3.51.2 loses commits if one resets the log while a checkpoint begins: the WAL-reset bug
(https://sqlite.org/wal.html#walresetbug). A reset needs the write lock, and an automatic checkpoint does not take it.

Hence `open_inbox_file` turns automatic checkpoints off for every connection, and `Checkpointer` checkpoints on a second
connection while the first holds the write lock. One connection cannot do both: SQLite refuses a checkpoint within a
transaction, and the modes that lock (FULL, RESTART, TRUNCATE) go on without the lock if they do not get it. The last
connection that closes checkpoints while it holds the exclusive lock of the file, so no other can reset the log.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import structlog

from ingest.inbox.schema import open_inbox_file

log = structlog.get_logger()

# Seconds. A process that shuts down has ten, and may wait twice.
LOCK_TIMEOUT = 3.0
LOCK_POLL = 0.0003
# Bytes of commits. As they are estimated, the log then has some 4,000 pages. With SQLite's own default, a fourth of it,
# the inbox spends a fifth of its time under load in checkpoints: many pages are written again and again.
CHECKPOINT_AFTER = 8_388_608
# What a row, and what a commit, add to the log beside the bodies.
ROW_BYTES = 2000
COMMIT_BYTES = 8000


class Checkpointer:
    """Checkpoints the inbox file for one connection that writes, whenever that has written enough."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0
        self._problem: str | None = None

    def after_commit(self, writer: sqlite3.Connection, size: int) -> None:
        """Count the bytes of a commit, and checkpoint if it is time. Failures are logged, and tried again as late."""
        self._written += size + COMMIT_BYTES
        if self._written < CHECKPOINT_AFTER:
            return
        self._written = 0
        problem = None
        try:
            # A connection that is closed while `writer` is open is not the last one, so it copies nothing more.
            with closing(open_inbox_file(self._path)) as file, transaction(writer):
                file.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except (sqlite3.Error, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problem:
                log.warning("inbox.checkpoint_failed", error=problem)
        self._problem = problem


def open_for_background_writes(path: Path) -> sqlite3.Connection:
    """Open the file for writes that a power loss may undo, so that the lock is held without an fsync."""
    file = open_inbox_file(path)
    file.execute("PRAGMA synchronous = NORMAL")
    disable_busy_timeout(file)
    return file


def disable_busy_timeout(file: sqlite3.Connection) -> None:
    """Make statements fail at once while the file is locked, for `execute_with_retry` and `transaction` to retry.

    Under load the inbox frees the lock for a moment between two commits. SQLite's own busy handler sleeps longer each
    time and misses those moments for seconds.
    """
    file.execute("PRAGMA busy_timeout = 0")


def execute_with_retry(file: sqlite3.Connection, statement: str, values: Sequence[object] = ()) -> int:
    """Execute one statement, a transaction of its own, as soon as the lock is free; return the number of rows."""
    until = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            return file.execute(statement, values).rowcount
        except sqlite3.OperationalError as error:
            # The low byte: the lock may also be taken by a process that recovers the log of one that was killed.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(LOCK_POLL)


@contextmanager
def transaction(file: sqlite3.Connection) -> Iterator[None]:
    """Take the write lock, and commit what the block writes. Roll back whatever the block raises."""
    execute_with_retry(file, "BEGIN IMMEDIATE")
    try:
        yield
        file.execute("COMMIT")
    except BaseException:
        file.rollback()
        raise
