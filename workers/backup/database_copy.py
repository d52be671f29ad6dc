"""Copies of SQLite files that others write to: consistent, without free space, and verified."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ingest.errors import WebhooksError

TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"


class CopyDamaged(WebhooksError):
    """Raised when a copy is not what it should be."""


class CopyFailed(WebhooksError):
    """Raised when a file could not be copied: it cannot be read, or there is no room."""


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, onto the disk. Raise CopyFailed or OSError.

    VACUUM INTO reads in one transaction, which blocks no writer in WAL mode; the log of the source grows meanwhile, as
    it cannot be reset. The backup API would do so too, or begin anew whenever somebody writes. And it would copy the
    free pages, in which what was erased may still be read.
    """
    try:
        with closing(sqlite3.connect(read_only_uri(source), uri=True, isolation_level=None)) as file:
            file.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        raise CopyFailed(f"{source.name} could not be copied to {target.parent}: {error}") from error
    target.chmod(0o600)
    sync(target)  # SQLite does not do it: https://www.sqlite.org/lang_vacuum.html#vacuum_with_an_into_clause


def row_counts(copy: Path) -> dict[str, int]:
    """Check every page of a copy that nobody writes to, and count its rows by table. Raise CopyDamaged."""
    with opened_copy(copy) as file:
        (finding,) = file.execute("PRAGMA integrity_check(1)").fetchone()
        if finding != "ok":
            raise CopyDamaged(f"{copy.name} is damaged: {finding}.")
        names = [name for (name,) in file.execute(TABLES)]
        return {name: int(file.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]) for name in names}  # noqa: S608 - of the file itself


@contextmanager
def opened_copy(copy: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy for reading; nothing is written beside it. Raise CopyDamaged if it is no database."""
    try:
        with closing(sqlite3.connect(f"{read_only_uri(copy)}&immutable=1", uri=True)) as file:
            yield file
    except sqlite3.DatabaseError as error:
        raise CopyDamaged(f"{copy.name} cannot be read: {error}.") from error


def read_only_uri(path: Path) -> str:
    """Return the URI that opens a file for reading: it is not created, and closing it checkpoints nothing."""
    return f"{path.absolute().as_uri()}?mode=ro"


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
