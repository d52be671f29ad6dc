"""Opens the ledger, and holds the little in which its two databases differ."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from typing import TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from workers.ledger.tables.core import to_json

T = TypeVar("T")

#: Ids in one statement: far below what either database takes as parameters.
CHUNK = 1000


#: Connections at once: as many as a clock has threads (PUSH_CONCURRENCY and its duties); those that look up the devices
#: of several channels need them for so short a time that they can wait for each other.
POOL_SIZE = 30
IDLE_CONNECTIONS = 10

#: Seconds that a thread waits for one of them. This and the limits below are shorter than a job's patience: where the
#: database is out of reach its work is handed back, before RQ ends the job and that is taken for a death.
POOL_TIMEOUT = 5.0

#: What PostgreSQL's library is told where the URL says nothing else, in seconds: how long to wait for a connection, and
#: after how long without a sign of life the server's machine is given up. Left alone, it waits for many minutes.
LIMITS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}

IN_MEMORY = {None, "", ":memory:"}


def create_ledger_engine(
    url: str, *, patience: timedelta = timedelta(seconds=5), places: int = POOL_SIZE, wait: float = POOL_TIMEOUT
) -> Engine:
    """Make the engine; no connection is opened before the first one is asked for.

    On SQLite a transaction takes the write lock when it begins, so that it never fails half-way for want of it; it
    waits for up to `patience`, then raises `OperationalError`. See `reading` for transactions that only look.

    Who finds all `places` taken for longer than `wait` gets SQLAlchemy's `TimeoutError`.

    The engine may be carried across a fork: connections that nobody uses are closed before, the child opens its own.
    """
    engine = _make(url, patience, places, wait)
    _dispose_after_fork().add(engine)
    return engine


@contextmanager
def read_only(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only looks: on SQLite it neither waits for writers nor holds them up."""
    with engine.connect() as conn:
        yield conn.execution_options(reading=True)


def insert_into(conn: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Build the dialect's INSERT that knows ON CONFLICT."""
    return sqlite.insert(table) if conn.dialect.name == "sqlite" else postgresql.insert(table)


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces that one statement can take."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _make(url: str, patience: timedelta, places: int, wait: float) -> Engine:
    parts = make_url(url)
    # Errors tell statements without their values: these are bodies and user ids, and errors are logged.
    make = partial(create_engine, url, json_serializer=to_json, hide_parameters=True)
    is_sqlite = parts.get_backend_name() == "sqlite"
    if not (is_sqlite and parts.database in IN_MEMORY):  # there each thread has a connection of its own
        kept = min(IDLE_CONNECTIONS, places)
        make = partial(make, pool_size=kept, max_overflow=places - kept, pool_timeout=wait)
    if is_sqlite:
        engine = make(connect_args={"timeout": patience.total_seconds()})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    # The look-up of the hstore type would be one more round trip in every process.
    limits = {name: value for name, value in LIMITS.items() if name not in parts.query}
    engine = make(pool_pre_ping=True, use_native_hstore=False, connect_args=limits)
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_sqlite(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    assert isinstance(dbapi_connection, sqlite3.Connection)  # noqa: S101 - for the type checker
    dbapi_connection.isolation_level = None  # the driver must not begin transactions: `_begin_sqlite` does
    # WAL lets readers and one writer work at once; FULL makes every commit an fsync of the log.
    dbapi_connection.execute("PRAGMA journal_mode = WAL")
    dbapi_connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN" if conn.get_execution_options().get("reading") else "BEGIN IMMEDIATE")


def _prepare_postgresql(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    # Times are read as Python's, whose calendar ends where another zone may push a value over the edge.
    cursor = dbapi_connection.cursor()
    cursor.execute("SET TIME ZONE 'UTC'")
    cursor.close()
    dbapi_connection.commit()


@cache
def _dispose_after_fork() -> WeakSet[Engine]:
    engines: WeakSet[Engine] = WeakSet()

    def close_connections() -> None:
        # Before and not after: a child that inherits an open SQLite file believes that it holds its locks.
        for engine in list(engines):
            engine.dispose()

    os.register_at_fork(before=close_connections)
    return engines
