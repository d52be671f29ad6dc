"""The SQLite file of one node's inbox: its tables, and how each connection to it is opened."""

import sqlite3
import time
import uuid
from pathlib import Path

FILE_NAME = "inbox.db"
# Seconds.
LOCK_TIMEOUT = 5.0
LOCK_POLL = 0.005

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- Ids of deliveries that were settled in the last DUPLICATES_REMEMBERED, and of those that were received again: to
-- recognize a duplicate, both this table and `deliveries` are searched. An insert does not write here, because ids come
-- in no order, and each would be one more page of the log that the response waits for.
CREATE TABLE IF NOT EXISTS seen (
    id TEXT PRIMARY KEY,
    receipts INTEGER NOT NULL DEFAULT 1,
    first_at REAL NOT NULL
) WITHOUT ROWID;

-- Unsettled deliveries. A row without a body is a notice for the ledger that a delivery was received again.
CREATE TABLE IF NOT EXISTS deliveries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    queue TEXT NOT NULL,
    event TEXT,
    session_id TEXT,
    received_at REAL NOT NULL,
    signed_with TEXT NOT NULL,
    signed_at REAL,
    headers TEXT NOT NULL,
    body BLOB,
    batch TEXT,
    offered_at REAL,
    deaths INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS deliveries_waiting ON deliveries (queue, seq) WHERE batch IS NULL;
CREATE INDEX IF NOT EXISTS deliveries_offered ON deliveries (batch) WHERE batch IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS deliveries_repeats ON deliveries (id) WHERE body IS NULL AND batch IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS deliveries_ids ON deliveries (id) WHERE body IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_session ON deliveries (session_id) WHERE session_id IS NOT NULL;

-- The latest downtimes: spans in which nothing could be kept.
CREATE TABLE IF NOT EXISTS gaps (
    closed_at REAL PRIMARY KEY,
    opened_at REAL NOT NULL
);

-- Requests that failed verification; bounded in count, bytes and age.
CREATE TABLE IF NOT EXISTS quarantine (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    received_at REAL NOT NULL,
    reason TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
);
"""

# For the index `deliveries_ids`. A file that an older release wrote may have a delivery twice that was unsettled for
# longer than DUPLICATES_REMEMBERED.
DELETE_DUPLICATES = """
DELETE FROM deliveries WHERE body IS NOT NULL
    AND seq NOT IN (SELECT min(seq) FROM deliveries WHERE body IS NOT NULL GROUP BY id)
"""


def open_inbox_file(path: Path) -> sqlite3.Connection:
    """Open the file in autocommit mode; create it and its tables if it is new. A commit is on disk when it returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = time.monotonic() + LOCK_TIMEOUT
    while True:
        connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            return _configure(connection)
        except sqlite3.Error as error:
            connection.close()
            # SQLite does not wait while another connection creates the log, or deletes it as the last that closes.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(LOCK_POLL)


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one that takes its place; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def inbox_id(connection: sqlite3.Connection) -> str:
    """Return the id that was made with the file: the ledger tells the receipts of several nodes apart by it."""
    (value,) = connection.execute("SELECT value FROM meta WHERE name = 'inbox_id'").fetchone()
    return str(value)


def _configure(connection: sqlite3.Connection) -> sqlite3.Connection:
    # A checkpoint without the write lock can lose commits: see write_lock.py.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    # WAL lets the relay read while the inbox writes; FULL makes each commit an fsync of the log.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    try:
        connection.executescript(SCHEMA)
    except sqlite3.IntegrityError:
        connection.execute(DELETE_DUPLICATES)
        connection.executescript(SCHEMA)
    # An insert takes the write lock: opening the file to read must not make the inbox wait.
    if connection.execute("SELECT 1 FROM meta WHERE name = 'inbox_id'").fetchone() is None:
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('inbox_id', ?)", (uuid.uuid4().hex[:12],))
    return connection
