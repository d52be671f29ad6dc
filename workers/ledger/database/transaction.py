"""One transaction against the ledger, begun anew while the database is away; and looks, which are not."""

import sqlite3
from collections.abc import Callable
from typing import TypeVar

import stamina
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
    TimeoutError,  # noqa: A004 - SQLAlchemy's, of its pool
)

from ingest.errors import WebhooksError
from workers.ledger.database.engine import read_only

T = TypeVar("T")

UNUSABLE = (OperationalError, InterfaceError, InternalError, ProgrammingError, TimeoutError)
"""What is raised where a database is away, locked, read-only, torn or has no connection left, or lacks our tables."""

SQLITE_ITSELF = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
"""Result codes that say nothing of the statement: https://www.sqlite.org/rescode.html"""

POSTGRESQL_ITSELF = ("08", "25006", "40", "53", "55", "57P", "58")
"""Beginnings of those: connection, read-only, deadlock, resources, locks, shutdown, system.

Not 57014: a statement that is cancelled because it takes longer than `statement_timeout` does so each time.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

RETRY_FOR = 30.0
"""How long, in seconds, a job waits for the database before it hands its work back."""


class LedgerUnavailable(WebhooksError):
    """Raised when the database stays away for longer than a job can wait."""


class LedgerNotMigrated(LedgerUnavailable):
    """Raised when the database answers, but cannot do what it is asked: it lacks this version's tables, say."""


def run_in_transaction(engine: Engine, work: Callable[[Connection], T], *, patience: float = RETRY_FOR) -> T:
    """Call `work` in a transaction and commit; again, with backoff, for as long as the database is out of order.

    `work` must bear being called more than once: a commit whose answer was lost may have happened.
    Raises LedgerUnavailable when the database stays away.
    """
    try:
        for attempt in stamina.retry_context(
            on=UNUSABLE, attempts=None, timeout=patience, wait_initial=0.05, wait_max=2
        ):
            with attempt, engine.begin() as connection:
                return work(connection)
    except UNUSABLE as failure:
        raise _unavailable(failure) from None
    raise AssertionError("stamina returns or raises")


def read_once(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Call `work` in a transaction that only looks, once: who looks will look again.

    Raises LedgerUnavailable when the database cannot be used.
    """
    try:
        with read_only(engine) as connection:
            return work(connection)
    except UNUSABLE as failure:
        raise _unavailable(failure) from None


def is_transient(failure: BaseException) -> bool:
    """Say whether the database is out of order, and not what it was asked to do: that asked of it again may work."""
    if not isinstance(failure, DBAPIError):
        return isinstance(failure, TimeoutError)
    if failure.connection_invalidated or failure.statement is None:  # it could not even connect, begin or commit
        return True
    if isinstance(failure.orig, sqlite3.Error):
        # An extended code has the plain one in its last byte. Errors that the driver itself makes up have none.
        return getattr(failure.orig, "sqlite_errorcode", 0) & 0xFF in SQLITE_ITSELF
    return (getattr(failure.orig, "sqlstate", None) or "").startswith(POSTGRESQL_ITSELF)


def _unavailable(failure: SQLAlchemyError) -> LedgerUnavailable:
    # The driver's text may quote the statement's values, so it is not repeated; where the pool gives up there is none.
    cause = failure.orig if isinstance(failure, DBAPIError) else failure
    if is_transient(failure):
        return LedgerUnavailable(f"the database cannot be used: {type(cause).__name__}")
    return LedgerNotMigrated(f"the database cannot do what it is asked: {type(cause).__name__}")
