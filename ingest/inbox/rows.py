"""Insert envelopes into the inbox file, and recognize duplicates."""

import json
import sqlite3
import time
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from pydantic_core import to_json

from ingest.events import peek, queue_for
from ingest.failpoints import Failpoint, hit_inside
from ingest.inbox.schema import open_inbox_file
from ingest.inbox.write_lock import disable_busy_timeout, execute_with_retry
from ingest.wire.envelope import Envelope, delivery_id
from ingest.wire.redaction import REDACTED, Redaction

# Duplicates carry no body and go to the low-priority queue.
DUPLICATES_QUEUE = "other"

# Part of the insert, which fails as a whole if one of its rows is known; of unsettled ones an index knows.
RECOGNIZE_TRIGGER = """
CREATE TEMP TRIGGER recognizing BEFORE INSERT ON main.deliveries
WHEN new.body IS NOT NULL AND EXISTS (SELECT 1 FROM seen WHERE id = new.id) BEGIN
    SELECT RAISE(ABORT, 'known');
END
"""
INSERT = """
INSERT INTO deliveries (id, kind, queue, event, session_id, received_at, signed_with, signed_at, headers, body) VALUES
"""
KNOWN = """
SELECT id FROM seen WHERE id IN (SELECT value FROM json_each(:ids))
UNION SELECT id FROM deliveries WHERE body IS NOT NULL AND id IN (SELECT value FROM json_each(:ids))
"""
COUNT = """
INSERT INTO seen (id, receipts, first_at) VALUES (?, 2, ?) ON CONFLICT (id) DO UPDATE SET receipts = receipts + 1
"""
# While the notice of an earlier duplicate waits, it stands for this one too: it counts receipts when it is published.
INSERT_DUPLICATE_NOTICE = INSERT.replace("INSERT INTO", "INSERT OR IGNORE INTO")
# Of one statement: so many, or a multiple of them. The sqlite3 module caches the prepared statement of each length,
# which takes memory.
MAX_ROWS_PER_INSERT = 64


class Kept(NamedTuple):
    """A delivery that is on disk, now or since an earlier receipt."""

    id: str
    duplicate: bool


class Row(NamedTuple):
    """An envelope as the file has it."""

    id: str
    kind: str
    queue: str
    event: str | None
    session_id: str | None
    received_at: float
    signed_with: str
    signed_at: float | None
    headers: str
    body: bytes | None


def row_of(envelope: Envelope, redaction: Redaction | None = None) -> Row:
    """Return the row of an envelope, with the name, session and queue that its body says.

    A body that is redacted keeps the id of the original. A header has the id that it would have itself.
    """
    headers, body = envelope.headers, envelope.body
    if redaction is not None:
        body = redaction.apply(envelope.kind, envelope.body)
        if body is not envelope.body:
            headers = {**headers, REDACTED: delivery_id(envelope.kind, body)}
    seen = peek(envelope.kind, body)
    return Row(
        envelope.id,
        str(envelope.kind),  # sqlite3 adapts what is not quite a str, which takes longer than all the rest of a row
        queue_for(envelope.kind, seen),
        seen.name,
        seen.session_id,
        envelope.received_at.timestamp(),
        envelope.signed_with,
        envelope.signed_at.timestamp() if envelope.signed_at else None,
        to_json(dict(headers)).decode(),
        body,
    )


def open_for_inserts(path: Path) -> sqlite3.Connection:
    """Open the inbox file for `insert_new` and `upsert_rows`."""
    connection = open_inbox_file(path)
    disable_busy_timeout(connection)
    connection.execute(RECOGNIZE_TRIGGER)
    hit_inside(Failpoint.KEEPING, connection)
    return connection


def known_ids(connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Return which of these deliveries are in the file, or were within DUPLICATES_REMEMBERED."""
    return {known for (known,) in connection.execute(KNOWN, {"ids": json.dumps(ids)})}


def fitting_group(count: int) -> int:
    """Return how many of so many rows to insert together: as many as one statement has a length for."""
    return count if count <= MAX_ROWS_PER_INSERT else count - count % MAX_ROWS_PER_INSERT


def insert_new(connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Kept] | None:
    """Insert all rows with one statement, a transaction of its own; return None if one is known or their number unfit.

    One statement, because each releases the interpreter lock several times, and to get it back from a busy event loop
    takes longer than all that SQLite does. Several in a transaction take half as long again even without that: so that
    each can be undone alone, SQLite copies all pages that it writes.
    """
    if not rows or len(rows) != fitting_group(len(rows)):
        return None
    try:
        execute_with_retry(connection, _statement_for(INSERT, len(rows)), list(chain.from_iterable(rows)))
    except sqlite3.IntegrityError:
        return None
    return [Kept(row.id, duplicate=False) for row in rows]


def upsert_rows(connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Kept]:
    """Insert rows in the caller's transaction, in their order; count a receipt of those that are known already."""
    kept: list[Kept] = []
    for start in range(0, len(rows), MAX_ROWS_PER_INSERT):
        chunk = rows[start : start + MAX_ROWS_PER_INSERT]
        kept += insert_new(connection, chunk) or [_upsert_one(connection, row) for row in chunk]
    return kept


def _upsert_one(connection: sqlite3.Connection, row: Row) -> Kept:
    is_known = bool(known_ids(connection, [row.id]))
    if is_known:
        connection.execute(COUNT, (row.id, time.time()))
        connection.execute(
            _statement_for(INSERT_DUPLICATE_NOTICE, 1), row._replace(queue=DUPLICATES_QUEUE, headers="{}", body=None)
        )
    else:
        connection.execute(_statement_for(INSERT, 1), row)
    return Kept(row.id, is_known)


@cache
def _statement_for(statement: str, rows: int) -> str:
    row = f"({', '.join('?' * len(Row._fields))})"
    return f"{statement} {', '.join([row] * rows)}"
