"""Create the ledger's engine on SQLite or PostgreSQL, and bridge the differences of the two."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ingest.inbox.schema import file_identity
from workers.ledger.tables.core_tables import to_json

T = TypeVar("T")

#: Ids in one statement: far below the limit of parameters of either database.
CHUNK = 1000

#: Connections at once: as many as a clock has threads (PUSH_CONCURRENCY and its periodic tasks); device lookups are so
#: short that they can share.
POOL_SIZE = 30
IDLE_CONNECTIONS = 10

#: Seconds that a thread waits for a connection. This and the limits below are shorter than a job's timeout: without a
#: database a job hands its work back before RQ kills it, which would count as a crash.
POOL_TIMEOUT = 5.0

#: Defaults for what the URL does not set, in seconds: how long libpq waits for a connection, and for a sign of life of
#: the server's machine. Its own defaults are many minutes.
LIMITS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
    "client_encoding": "utf8",
}

#: After so long a connection is opened anew: after a failover an old one may lead to a server that still answers reads,
#: from data that nobody updates any more.
MAX_CONNECTION_AGE = timedelta(minutes=1)

#: SQLSTATEs after which no connection of the pool is used again: the server has become a standby (25006), or prepared
#: statements meet a pooler that gives each transaction another connection (26000, 42P05).
BROKEN_CONNECTION = {"25006", "26000", "42P05"}

#: Of a process that writes batches, on SQLite: for each connection, and between two checkpoints.
CACHE_KIB = 32 * 1024
CHECKPOINT_PAGES = 4000
#: Bytes of SQLite's log that are kept when it begins anew: a reader may have let it grow to gigabytes.
LOG_KEPT = 64 << 20

SET_UP = "SELECT pg_backend_pid(), set_config('TimeZone', 'UTC', false), set_config('DateStyle', 'ISO', false)"

IN_MEMORY = {None, "", ":memory:"}


class LedgerMissing(sqlite3.OperationalError):
    """Raised, within SQLAlchemy's OperationalError, where the file of a ledger is not there."""


def create_ledger_engine(
    url: str,
    *,
    creates_file: bool = False,
    busy_timeout: timedelta = timedelta(seconds=5),
    pool_size: int = POOL_SIZE,
    pool_timeout: float = POOL_TIMEOUT,
) -> Engine:
    """Create the engine; a connection is opened when the first one is needed.

    A file of SQLite that is not there is created with `creates_file` only, which is for migrations: an empty one, left
    behind by who only reads, would stand in the way of a backup that is restored. Else connecting fails.
    On SQLite a transaction takes the write lock when it begins, so that it never fails half-way for want of it; it
    waits for up to `busy_timeout`, then raises `OperationalError`. See `read_only` for transactions without the lock.
    When all connections are in use for longer than `pool_timeout`, SQLAlchemy's `TimeoutError` is raised.
    The engine survives a fork: idle connections are closed before, and the child opens its own.
    """
    parts, file = make_url(url), database_file(url)
    # Without parameters in errors, which are logged: they are bodies and user ids.
    make = partial(create_engine, url, json_serializer=to_json, hide_parameters=True)
    is_sqlite = parts.get_backend_name() == "sqlite"
    if not is_sqlite or file is not None:  # in memory, each thread has a connection of its own
        idle = min(IDLE_CONNECTIONS, pool_size)
        make = partial(make, pool_size=idle, max_overflow=pool_size - idle, pool_timeout=pool_timeout)
    if is_sqlite:
        engine = make(connect_args={"timeout": busy_timeout.total_seconds()})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        if file is not None and not creates_file:
            _require_file(engine, file)
        if file is not None:
            _reopen_replaced_file(engine, file)
    else:
        # Finding the hstore type would be one more round trip in every process.
        limits = {name: value for name, value in LIMITS.items() if name not in parts.query}
        recycle = int(MAX_CONNECTION_AGE.total_seconds())
        engine = make(pool_pre_ping=True, pool_recycle=recycle, use_native_hstore=False, connect_args=limits)
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "handle_error", _discard_broken)
    _dispose_after_fork().add(engine)
    return engine


def write_in_bulk(engine: Engine) -> None:
    """Make connections that are opened from now on hold in memory what a large batch changes on SQLite.

    With the default of 2 MB its pages are written and read again within the transaction.
    """
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_bulk_writes)


def database_file(url: str | URL) -> Path | None:
    """Return the file of a database on SQLite; None of one in memory, and of any other."""
    parts = make_url(url)
    is_file = parts.get_backend_name() == "sqlite" and parts.database not in IN_MEMORY
    return Path(str(parts.database)) if is_file else None


def missing_text(path: Path) -> str:
    """Return the sentence for who has no ledger yet."""
    return f"There is no ledger at {path} yet: run `webhooks migrate` or `webhooks dev` first."


@contextmanager
def read_only(engine: Engine) -> Iterator[Connection]:
    """Open a transaction for reading: on SQLite it neither waits for writers nor blocks them."""
    with engine.connect() as conn:
        yield conn.execution_options(reading=True)


def insert_into(conn: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Build the dialect's INSERT with ON CONFLICT."""
    return sqlite.insert(table) if conn.dialect.name == "sqlite" else postgresql.insert(table)


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Yield parts of a sequence, small enough for one statement."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _prepare_sqlite(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    assert isinstance(dbapi_connection, sqlite3.Connection)  # noqa: S101 - for the type checker
    dbapi_connection.isolation_level = None  # `_begin_sqlite` begins transactions, not the driver
    if dbapi_connection.execute("PRAGMA page_count").fetchone() == (0,):
        # Deleted rows give disk back, a few pages at a time. Only a new file can be made so, and that takes its lock.
        dbapi_connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    # WAL lets readers and one writer work at once; FULL makes every commit an fsync of the log.
    dbapi_connection.execute("PRAGMA journal_mode = WAL")
    dbapi_connection.execute("PRAGMA synchronous = FULL")
    dbapi_connection.execute(f"PRAGMA journal_size_limit = {LOG_KEPT}")


def _prepare_bulk_writes(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    assert isinstance(dbapi_connection, sqlite3.Connection)  # noqa: S101 - for the type checker
    dbapi_connection.execute(f"PRAGMA cache_size = {-CACHE_KIB}")
    dbapi_connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")


def _require_file(engine: Engine, path: Path) -> None:
    """Raise LedgerMissing instead of creating the file."""

    def require(*_arguments: object) -> None:
        if not path.exists():
            raise LedgerMissing(missing_text(path))

    event.listen(engine, "do_connect", require)


def _reopen_replaced_file(engine: Engine, path: Path) -> None:
    """Open the file anew when another one is in its place: what is written to a deleted one is lost."""

    def remember(_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info["file"] = file_identity(path)

    def compare(_connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        if record.info["file"] != file_identity(path):
            raise DisconnectionError("another file is in the place of the database")

    event.listen(engine, "connect", remember)
    event.listen(engine, "checkout", compare)


def _begin_sqlite(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN" if conn.get_execution_options().get("reading") else "BEGIN IMMEDIATE")


def _prepare_postgresql(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    import psycopg  # noqa: PLC0415  a ledger on SQLite does without, and it takes long

    assert isinstance(dbapi_connection, psycopg.Connection)  # noqa: S101 - for the type checker
    # In another time zone a value may lie beyond the end of Python's calendar; psycopg reads ISO dates only.
    row = dbapi_connection.execute(SET_UP).fetchone()
    dbapi_connection.commit()
    if row is not None and row[0] != dbapi_connection.info.backend_pid:
        # A pooler such as PgBouncer is between: the next transaction may run on another connection of its own, which
        # knows none of our prepared statements. https://www.psycopg.org/psycopg3/docs/advanced/prepare.html
        dbapi_connection.prepare_threshold = None


def _discard_broken(failed: ExceptionContext) -> None:
    if getattr(failed.original_exception, "sqlstate", None) in BROKEN_CONNECTION:
        failed.is_disconnect = True


@cache
def _dispose_after_fork() -> WeakSet[Engine]:
    engines: WeakSet[Engine] = WeakSet()

    def close_connections() -> None:
        # Before and not after: a child that inherits an open SQLite file believes that it holds the file's locks.
        for engine in list(engines):
            engine.dispose()

    os.register_at_fork(before=close_connections)
    return engines
