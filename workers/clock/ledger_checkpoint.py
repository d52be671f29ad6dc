"""Empty the log of a ledger on SQLite, which only begins anew at a moment without readers.

Under load short readers overlap, so that there is none: the log grows although each of them soon ends.
"""

from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Engine

from workers.ledger.database.engine import LOG_KEPT
from workers.ledger.transaction_monitor import wal_size

log = structlog.get_logger()

READERS_END_WITHIN = timedelta(seconds=1)
"""So long writers wait at most, once in a minute, for readers that began before."""


class LedgerCheckpointTask:
    """Copies a log that is larger than what is kept of one into the database, and truncates it.

    SQLite takes the write lock for that and waits for the readers of the log: who begins to read meanwhile reads the
    database alone (https://sqlite.org/pragma.html#pragma_wal_checkpoint). A reader that lasts longer keeps the log.
    """

    name = "ledger_checkpoint"
    every = timedelta(minutes=1)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self) -> None:
        """Empty the log if it is large. Raise DBAPIError if the ledger cannot be used."""
        size = wal_size(self._engine)
        if size <= LOG_KEPT:
            return
        pooled = self._engine.raw_connection()
        try:
            connection: Any = pooled.driver_connection
            connection.execute(f"PRAGMA busy_timeout = {READERS_END_WITHIN // timedelta(milliseconds=1)}")
            ((is_busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            pooled.invalidate()  # it waits for less than others
        if is_busy:
            log.info("ledger.log_in_use", bytes=size)
        else:
            log.info("ledger.log_emptied", bytes=size)
