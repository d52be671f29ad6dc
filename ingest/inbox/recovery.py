"""Recovery: the deliveries that can still be read from a corrupt inbox file, inserted into the new one.

The id of a delivery is the digest of its body, so a body with a matching id is whole; the rest of the row is built
anew. The ledger recognizes by the id what it has already.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest.inbox.rows import Row, known_ids, open_for_inserts, row_of, upsert_rows
from ingest.inbox.write_lock import Checkpointer, transaction
from ingest.queue.batch import timestamp_or_none
from ingest.wire.envelope import Envelope, Kind, delivery_id
from ingest.wire.redaction import REDACTED

# What may have verified a delivery, and what is assumed if the column cannot be read.
SIGNED_WITH = ("current", "next", "authorization")
ASSUMED_KEY = "current"

# Of one transaction: bodies may be large.
MAX_ROWS = 250
# Without an index, which may be the corrupt part; and from both ends, as reading stops at a corrupt page.
READ = """
SELECT seq, id, kind, received_at, signed_with, signed_at, headers, body
FROM deliveries NOT INDEXED WHERE body IS NOT NULL ORDER BY seq
"""


def recover(damaged: Path, path: Path) -> int:
    """Insert the readable deliveries of the corrupt file into the file at `path`; return how many were new there.

    A second call continues what the first one left when it was interrupted.
    """
    count = 0
    rows: list[Row] = []
    checkpointer = Checkpointer(path)
    with closing(open_for_inserts(path)) as file:
        for row in _readable_rows(damaged):
            rows.append(row)
            if len(rows) == MAX_ROWS:
                count += _insert(file, rows)
                checkpointer.after_commit(file, sum(len(each.body or b"") for each in rows))
                rows = []
        return count + _insert(file, rows)


def _insert(file: sqlite3.Connection, rows: list[Row]) -> int:
    with transaction(file):
        known = known_ids(file, [row.id for row in rows])
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
                        break  # the pass from the other end has read the rest
                    seen.add(seq)
                    row = _row(*values)
                    if row is not None:
                        yield row
            except sqlite3.DatabaseError:
                continue


def _row(  # noqa: PLR0913, PLR0917 - the columns
    id_: Any, kind: Any, received_at: Any, signed_with: Any, signed_at: Any, headers: Any, body: Any
) -> Row | None:
    """Build a row anew from its body; return None if the id is not the digest of the body."""
    if kind not in set(Kind) or not isinstance(body, bytes):
        return None
    found, digest = _headers(headers), delivery_id(Kind(kind), body)
    if digest not in {id_, found.get(REDACTED)}:
        return None
    row = row_of(
        Envelope(
            Kind(kind),
            body,
            _time_of(received_at) or datetime.now(UTC),
            signed_with if signed_with in SIGNED_WITH else ASSUMED_KEY,
            _time_of(signed_at),
            found,
        )
    )
    return row._replace(id=str(id_))  # that of the original, where the body was redacted


def _time_of(value: Any) -> datetime | None:
    return timestamp_or_none(value) if isinstance(value, float) else None


def _headers(text: Any) -> dict[str, str]:
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate could not be written again
    except (TypeError, ValueError, RecursionError):
        return {}
    is_valid = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if is_valid else {}
