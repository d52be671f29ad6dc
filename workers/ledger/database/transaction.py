"""Run a transaction on the ledger, or read, retried while the database is unavailable; or read once."""

import sqlite3
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

import stamina
import structlog
from sqlalchemy import Connection, Engine, exc
from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks

from ingest.errors import WebhooksError
from workers.ledger.database.engine import read_only

T = TypeVar("T")

UNUSABLE = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.ProgrammingError, exc.TimeoutError)
"""Raised when a database is unavailable, locked, read-only, damaged, out of connections, or lacks our tables."""

TRANSIENT_SQLITE = {
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
"""Result codes that do not depend on the statement: https://www.sqlite.org/rescode.html"""

TRANSIENT_SQLSTATES = ("08", "25006", "26000", "40", "42P05", "53", "55", "57P", "58")
"""Prefixes of the same: connection, read-only, prepared statements, deadlock, resources, locks, shutdown, system.

Not 57014: a statement that exceeds `statement_timeout` does so each time.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

RETRY_FOR = 30.0
"""Seconds for which a job waits for the database before it hands its work back."""

LOG_RETRY = get_on_retry_hooks()


class LedgerUnavailable(WebhooksError):
    """Raised when the database stays unavailable for longer than a job can wait."""


class LedgerNotMigrated(LedgerUnavailable):
    """Raised when the database answers, but cannot run the statement: it lacks this version's tables, for example."""


def run_in_transaction(engine: Engine, work: Callable[[Connection], T], *, retry_for: float = RETRY_FOR) -> T:
    """Call `work` in a transaction and commit; retry, with backoff, while the database is unavailable.

    `work` must be idempotent: a commit whose response was lost may have happened.
    Raises LedgerUnavailable when the database stays unavailable.
    """
    return _retry(engine.begin, work, retry_for)


def read(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Call `work` in a transaction for reading; retry as `run_in_transaction` does: a job's first look at the ledger.

    Raises LedgerUnavailable when the database stays unavailable.
    """
    return _retry(partial(read_only, engine), work, RETRY_FOR)


def read_once(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Call `work` in a transaction for reading, once: its callers come again.

    Raises LedgerUnavailable when the database cannot be used.
    """
    try:
        with read_only(engine) as connection:
            return work(connection)
    except UNUSABLE as failure:
        raise _unavailable(failure) from None


def is_transient(failure: BaseException) -> bool:
    """Return whether the database failed and not the statement: a retry may succeed."""
    if not isinstance(failure, exc.DBAPIError):
        return isinstance(failure, exc.TimeoutError)
    if failure.connection_invalidated or failure.statement is None:  # it failed to connect, begin or commit
        return True
    if isinstance(failure.orig, sqlite3.Error):
        # The last byte of an extended code is the primary one. Errors of the driver itself have none.
        return getattr(failure.orig, "sqlite_errorcode", 0) & 0xFF in TRANSIENT_SQLITE
    return (getattr(failure.orig, "sqlstate", None) or "").startswith(TRANSIENT_SQLSTATES)


def _retry(
    begin: Callable[[], AbstractContextManager[Connection]], work: Callable[[Connection], T], retry_for: float
) -> T:
    try:
        attempts = stamina.retry_context(UNUSABLE, attempts=None, timeout=retry_for, wait_initial=0.05, wait_max=2)
        for attempt in attempts:
            with attempt, begin() as connection:
                return work(connection)
    except UNUSABLE as failure:
        raise _unavailable(failure) from None
    raise AssertionError("stamina returns or raises")


def _report_retry(details: RetryDetails) -> None:
    """Log a retry; in a command that keeps no log, say on stderr at the first one why it takes long."""
    if structlog.is_configured():
        for log_retry in LOG_RETRY:
            log_retry(details)
    elif details.retry_num == 1:
        cause = type(details.caused_by).__name__
        print(f"No answer ({cause}): it is tried again for a while.", file=sys.stderr)  # noqa: T201


def _unavailable(failure: exc.SQLAlchemyError) -> LedgerUnavailable:
    # Without the driver's text, which may quote values of the statement.
    cause = failure.orig if isinstance(failure, exc.DBAPIError) else failure
    if is_transient(failure):
        return LedgerUnavailable(f"the database cannot be used: {type(cause).__name__}")
    return LedgerNotMigrated(f"the database cannot run the statement: {type(cause).__name__}")


set_on_retry_hooks([_report_retry])
