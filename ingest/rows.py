"""How an envelope is laid down in the inbox file, and how a repeat is known."""

import json
import sqlite3
import time
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

from pydantic_core import to_json

from ingest.envelope import Envelope
from ingest.events import glimpse, queue_for

# A repeat brings no body and is nobody's hurry.
REPEATS_QUEUE = "other"

REMEMBER = "INSERT OR IGNORE INTO seen (id, first_at) VALUES"
FIRST_SEEN = "SELECT id, first_at FROM seen WHERE id IN (SELECT value FROM json_each(?))"
KEEP = """
INSERT INTO deliveries (id, kind, queue, event, session_id, received_at, signed_with, signed_at, headers, body) VALUES
"""
COUNT = "UPDATE seen SET receipts = receipts + 1 WHERE id = ?"
# While a notice of an earlier repeat waits, it stands for this one too: it tells the number when it is offered.
NOTE = KEEP.replace("INSERT INTO", "INSERT OR IGNORE INTO")
# Most rows of one statement. Between two of them the interpreter is handed over to the loop, and getting it back takes
# longer than all the rest; but sqlite3 keeps the prepared form of each length, which takes memory.
LOT = 64


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
        envelope.kind,
        queue_for(envelope.kind, seen),
        seen.name,
        seen.session_id,
        envelope.received_at.timestamp(),
        envelope.signed_with,
        envelope.signed_at.timestamp() if envelope.signed_at else None,
        to_json(dict(envelope.headers)).decode(),
        envelope.body,
    )


def keep_rows(connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Kept]:
    """Write rows inside the caller's transaction, in their order; of those known already, that they came again."""
    now = time.time()
    if _insert(connection, REMEMBER, [(row.id, now) for row in rows]) == len(rows):
        _insert(connection, KEEP, rows)
        return [Kept(row.id, duplicate=False) for row in rows]
    # What was remembered just now bears this moment, which no other transaction has: they take turns.
    found = connection.execute(FIRST_SEEN, (json.dumps([row.id for row in rows]),))
    known = {delivery_id for delivery_id, first_at in found if first_at != now}
    kept: list[Kept] = []
    for row in rows:
        if row.id in known:
            connection.execute(COUNT, (row.id,))
            _insert(connection, NOTE, [row._replace(queue=REPEATS_QUEUE, headers="{}", body=None)])
        else:
            _insert(connection, KEEP, [row])
        kept.append(Kept(row.id, row.id in known))
        known.add(row.id)
    return kept


def _insert(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> int:
    inserted = 0
    for start in range(0, len(rows), LOT):
        lot = rows[start : start + LOT]
        values = list(chain.from_iterable(lot))
        inserted += connection.execute(_for_lot(statement, len(lot), len(values) // len(lot)), values).rowcount
    return inserted


@cache
def _for_lot(statement: str, lot: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{statement} {', '.join([row] * lot)}"
