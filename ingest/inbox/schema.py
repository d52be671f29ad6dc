"""The SQLite file of one node's inbox: its tables, and how every connection to it is opened."""

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

-- Every delivery ever kept here, for as long as DUPLICATES_REMEMBERED: how a repeat is known after its row has gone.
CREATE TABLE IF NOT EXISTS seen (
    id TEXT PRIMARY KEY,
    receipts INTEGER NOT NULL DEFAULT 1,
    first_at REAL NOT NULL
) WITHOUT ROWID;

-- What is not settled yet. A row without a body tells the ledger that a delivery came again.
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

-- Times in which nothing could be kept here, the last ones of them.
CREATE TABLE IF NOT EXISTS gaps (
    closed_at REAL PRIMARY KEY,
    opened_at REAL NOT NULL
);

-- What failed verification, apart from what is real; bounded in count, bytes and age.
CREATE TABLE IF NOT EXISTS quarantine (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    received_at REAL NOT NULL,
    reason TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
);
"""


def open_inbox_file(path: Path) -> sqlite3.Connection:
    """Open the file in autocommit mode, made with its tables if it is new. A commit is on disk when it returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = time.monotonic() + LOCK_TIMEOUT
    while True:
        connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            return _configure(connection)
        except sqlite3.Error as error:
            connection.close()
            # SQLite itself does not wait while another connection makes the log, or being the last removes it.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(LOCK_POLL)


def inbox_id(connection: sqlite3.Connection) -> str:
    """Name the inbox: made once with the file, so that the ledger can tell one node's receipts from another's."""
    (value,) = connection.execute("SELECT value FROM meta WHERE name = 'inbox_id'").fetchone()
    return str(value)


def _configure(connection: sqlite3.Connection) -> sqlite3.Connection:
    # WAL lets the relay read while the door writes; FULL makes every commit an fsync of the log.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(SCHEMA)
    # Asked first: an insert takes the lock, and whoever opens the file to look shall not keep the door waiting.
    if connection.execute("SELECT 1 FROM meta WHERE name = 'inbox_id'").fetchone() is None:
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('inbox_id', ?)", (uuid.uuid4().hex[:12],))
    return connection
