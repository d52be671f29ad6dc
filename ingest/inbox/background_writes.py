"""Writing in the inbox file beside a door that commits in it all the time."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ingest.inbox.schema import open_inbox_file

# Seconds. A process that leaves has ten, and may come to wait twice.
LOCK_TIMEOUT = 3.0
LOCK_POLL = 0.0003


def open_for_background_writes(path: Path) -> sqlite3.Connection:
    """Open the file for writes that may be lost with the machine's power, so that the lock is held without an fsync."""
    file = open_inbox_file(path)
    file.execute("PRAGMA synchronous = NORMAL")
    disable_busy_timeout(file)
    return file


def disable_busy_timeout(file: sqlite3.Connection) -> None:
    """Have the connection fail at once where the file is locked: its writes are `write_patiently` and `transaction`.

    A busy door leaves the lock for a moment between two commits. SQLite's own waiting sleeps ever longer and misses
    those moments for seconds.
    """
    file.execute("PRAGMA busy_timeout = 0")


def execute_with_retry(file: sqlite3.Connection, statement: str, values: tuple[str | float, ...] = ()) -> int:
    """Write in one step, in which no other thread of this process can make the lock last longer; count the rows."""
    until = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            return file.execute(statement, values).rowcount
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(LOCK_POLL)


@contextmanager
def transaction(file: sqlite3.Connection) -> Iterator[None]:
    """Write what the block writes as one. Whatever it raises, the lock is given back."""
    execute_with_retry(file, "BEGIN IMMEDIATE")
    try:
        yield
        file.execute("COMMIT")
    except BaseException:
        file.rollback()
        raise
