"""How an envelope is laid down in the inbox file, and how a repeat is known."""

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from ingest.envelope import Envelope
from ingest.events import glimpse, queue_for

# A repeat brings no body and is nobody's hurry.
REPEATS_QUEUE = "other"

KNOWN = "SELECT id FROM seen WHERE id IN (SELECT value FROM json_each(?))"
REMEMBER = "INSERT INTO seen (id, first_at) VALUES (?, ?)"
KEEP = """
INSERT INTO deliveries (id, kind, queue, event, session_id, received_at, signed_with, signed_at, headers, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
COUNT = "UPDATE seen SET receipts = receipts + 1 WHERE id = ?"
# While a notice of an earlier repeat waits, it stands for this one too: it tells the number when it is offered.
NOTE = KEEP.replace("INSERT INTO", "INSERT OR IGNORE INTO")


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


def row_of(envelope: Envelope) -> Row:
    """Lay an envelope out as a row, with what its body says at a glance."""
    seen = glimpse(envelope.kind, envelope.body)
    return Row(
        envelope.id,
        envelope.kind.value,
        queue_for(envelope.kind, seen),
        seen.name,
        seen.session_id,
        envelope.received_at.timestamp(),
        envelope.signed_with,
        envelope.signed_at.timestamp() if envelope.signed_at else None,
        json.dumps(dict(envelope.headers)),
        envelope.body,
    )


def keep_rows(connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Kept]:
    """Write rows inside the caller's transaction, in their order; of those known already, that they came again."""
    known = {found for (found,) in connection.execute(KNOWN, (json.dumps([row.id for row in rows]),))}
    kept: list[Kept] = []
    fresh: list[Row] = []
    repeats: list[Row] = []
    for row in rows:
        is_repeat = row.id in known
        (repeats if is_repeat else fresh).append(row)
        known.add(row.id)
        kept.append(Kept(row.id, is_repeat))
    connection.executemany(REMEMBER, [(row.id, row.received_at) for row in fresh])
    connection.executemany(KEEP, fresh)
    if repeats:
        connection.executemany(COUNT, [(row.id,) for row in repeats])
        connection.executemany(NOTE, [row._replace(queue=REPEATS_QUEUE, headers="{}", body=None) for row in repeats])
    return kept
