"""Reads what can still be read of a damaged inbox file, and keeps it in the new one.

A delivery that is read is whole: its id is the digest of its body. What the ledger has already is known there by that.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ingest.beside import transaction
from ingest.envelope import Kind, delivery_id
from ingest.rows import Row, keep_rows, open_for_keeping

# Those of one transaction: bodies may be large.
AT_ONCE = 100
# Without an index, which may be what is damaged; and from both ends, as nothing is read beyond a damaged page.
READ = """
SELECT seq, id, kind, queue, event, session_id, received_at, signed_with, signed_at, headers, body
FROM deliveries NOT INDEXED WHERE body IS NOT NULL ORDER BY seq
"""


def salvage(damaged: Path, path: Path) -> int:
    """Keep in the file at `path` the deliveries of the damaged file that can be read; return how many."""
    count = 0
    lot: list[Row] = []
    with closing(open_for_keeping(path)) as file:
        for row in _readable(damaged):
            lot.append(row)
            if len(lot) == AT_ONCE:
                count += _keep(file, lot)
                lot = []
        return count + _keep(file, lot)


def _keep(file: sqlite3.Connection, rows: list[Row]) -> int:
    with transaction(file):
        keep_rows(file, rows)
    return len(rows)


def _readable(damaged: Path) -> Iterator[Row]:
    seen: set[int] = set()
    with closing(sqlite3.connect(f"{damaged.as_uri()}?mode=ro", uri=True)) as file:
        for order in ("ASC", "DESC"):
            try:
                for seq, *values in file.execute(f"{READ} {order}"):
                    if seq in seen:
                        break  # from here on the other end has been there
                    seen.add(seq)
                    row = Row(*values)
                    if _is_whole(row):
                        yield row
            except sqlite3.DatabaseError:
                continue


def _is_whole(row: Row) -> bool:
    try:
        return row.body is not None and row.id == delivery_id(Kind(row.kind), row.body)
    except (TypeError, ValueError):
        return False
