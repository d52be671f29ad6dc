"""Finds transactions that stay open for too long: until they end, what was deleted or changed gives no disk back."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, Engine, text

OPEN_FOR = timedelta(minutes=10)
"""No transaction of ours takes a tenth of that."""
WAL_BYTES = 256 << 20
"""A log of SQLite that is larger is not emptied: without a reader it has some 16 MB, see CHECKPOINT_PAGES."""

# Of other users the role may see no times: it needs pg_read_all_stats for that.
OLD = text(
    "SELECT pid, application_name, state, clock_timestamp() - xact_start AS age FROM pg_stat_activity"
    " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    " AND xact_start < clock_timestamp() - CAST(:open_for AS interval) ORDER BY xact_start LIMIT 10"
)


@dataclass(frozen=True, slots=True)
class OldTransaction:
    """A transaction of a PostgreSQL session; or on SQLite, where nobody can see it, the log that it keeps."""

    pid: int | None = None
    program: str = ""
    state: str = ""
    age: timedelta = timedelta()
    wal_bytes: int = 0


def old_transactions(ledger: Connection) -> Iterator[OldTransaction]:
    """Yield the transactions of others that have been open for too long, the oldest first."""
    if ledger.dialect.name == "sqlite":
        size = wal_size(ledger.engine)
        if size > WAL_BYTES:
            yield OldTransaction(wal_bytes=size)
        return
    for row in ledger.execute(OLD, {"open_for": OPEN_FOR}):
        yield OldTransaction(row.pid, row.application_name, row.state, row.age)


def wal_size(ledger: Engine) -> int:
    """Return the bytes of the write-ahead log of a SQLite ledger; 0 if it has none."""
    try:
        return Path(f"{ledger.url.database}-wal").stat().st_size
    except OSError:
        return 0
