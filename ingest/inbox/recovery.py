"""Reads what can still be read of a damaged inbox file, and keeps it in the new one.

A body that is read is whole, as the id is its digest; the rest of the row is laid out anew. What the ledger has already
is known there by its id.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest.inbox.background_writes import transaction
from ingest.inbox.rows import Row, open_for_keeping, row_of, upsert_rows
from ingest.queue.batch import timestamp_or_none
from ingest.wire.envelope import Envelope, Kind, delivery_id

# What may have proved a delivery, and what is said of one of which that cannot be read.
SIGNED_WITH = ("current", "next", "authorization")
ASSUMED_KEY = "current"

# Those of one transaction: bodies may be large.
AT_ONCE = 250
# Without an index, which may be what is damaged; and from both ends, as nothing is read beyond a damaged page.
READ = """
SELECT seq, id, kind, received_at, signed_with, signed_at, headers, body
FROM deliveries NOT INDEXED WHERE body IS NOT NULL ORDER BY seq
"""
KNOWN = "SELECT id FROM seen WHERE id IN (SELECT value FROM json_each(?))"


def recover(damaged: Path, path: Path) -> int:
    """Keep in the file at `path` the deliveries of the damaged file that can be read; return how many were new there.

    Cut short, it goes on where it was when it is called again.
    """
    count = 0
    lot: list[Row] = []
    with closing(open_for_keeping(path)) as file:
        for row in _readable_rows(damaged):
            lot.append(row)
            if len(lot) == AT_ONCE:
                count += _keep(file, lot)
                lot = []
        return count + _keep(file, lot)


def _keep(file: sqlite3.Connection, rows: list[Row]) -> int:
    with transaction(file):
        known = {known for (known,) in file.execute(KNOWN, (json.dumps([row.id for row in rows]),))}
        new = [row for row in rows if row.id not in known]
        upsert_rows(file, new)
    return len(new)


def _readable_rows(damaged: Path) -> Iterator[Row]:
    seen: set[int] = set()
    with closing(sqlite3.connect(f"{damaged.as_uri()}?mode=ro", uri=True)) as file:
        for order in ("ASC", "DESC"):
            try:
                for seq, *values in file.execute(f"{READ} {order}"):
                    if seq in seen:
                        break  # from here on the other end has been there
                    seen.add(seq)
                    row = _row(*values)
                    if row is not None:
                        yield row
            except sqlite3.DatabaseError:
                continue


def _row(  # noqa: PLR0913, PLR0917 - the columns
    id_: Any, kind: Any, received_at: Any, signed_with: Any, signed_at: Any, headers: Any, body: Any
) -> Row | None:
    """Lay a delivery out anew, from its body: that is what its id vouches for. None if it does not."""
    if kind not in set(Kind) or not isinstance(body, bytes) or id_ != delivery_id(Kind(kind), body):
        return None
    return row_of(
        Envelope(
            Kind(kind),
            body,
            _moment(received_at) or datetime.now(UTC),
            signed_with if signed_with in SIGNED_WITH else ASSUMED_KEY,
            _moment(signed_at),
            _headers(headers),
        )
    )


def _moment(value: Any) -> datetime | None:
    return timestamp_or_none(value) if isinstance(value, float) else None


def _headers(text: Any) -> dict[str, str]:
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # half a character could not be written again
    except (TypeError, ValueError, RecursionError):
        return {}
    is_sound = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if is_sound else {}
