"""Online DDL: the steps that migrations are written in, each of which lets events flow.

On PostgreSQL each step is a transaction of its own, locks a table exclusively only for a moment, and does nothing if it
was done before: a migration that was killed anywhere is run again from its beginning. On SQLite, which has one writer
and can roll DDL back, and for a ledger that is new, all of it is one transaction.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias

import stamina
import structlog
from alembic import op
from sqlalchemy import Column, TextClause, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import SchemaItem

log = structlog.get_logger()

Columns: TypeAlias = "Sequence[str | TextClause]"

#: How long a step may wait for an exclusive lock: for so long all others wait behind it.
LOCK_TIMEOUT_MS = 200

#: Seconds from one attempt to the next, in which those who waited get their turn.
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0

#: Rows that one transaction of a back-fill changes.
SLICE = 1000

#: What alters a table without a look at its rows; SET NOT NULL only where a valid CHECK says the same.
MOMENTARY = re.compile(
    r"ADD CONSTRAINT .+ NOT VALID|ADD CONSTRAINT \w+ (PRIMARY KEY|UNIQUE) USING INDEX \w+"
    r"|DROP CONSTRAINT (IF EXISTS )?\w+|ALTER COLUMN \w+ (SET NOT NULL|DROP NOT NULL|DROP DEFAULT|SET DEFAULT .+)"
)

#: SQLSTATEs: no lock within lock_timeout, deadlock.
LOCK_FAILURES = {"55P03", "40P01"}


class OnlineConnection(Protocol):
    """The part of a `psycopg.Connection` that the steps need."""

    def transaction(self) -> AbstractContextManager[object]:
        """Begin a transaction, or a savepoint in one."""

    def execute(self, query: str) -> object:
        """Execute a statement."""


def create_table(name: str, *items: SchemaItem) -> None:
    """Create a table with its columns and constraints. Its indexes follow by `create_index`."""
    op.create_table(name, *items, if_not_exists=True)


def add_column(table: str, column: Column[object]) -> None:
    """Add a column that the version before need not know: it is nullable, or has a constant default."""
    if not column.nullable and column.server_default is None:
        raise ValueError(f"{table}.{column.name}: the version before inserts rows without it; give it a server_default")
    if column.name in _columns(table):
        return
    with _exclusive_lock(table):
        op.add_column(table, column)


def drop_column(table: str, name: str) -> None:
    """Drop a column that the version before does not use; its migration sets COMPATIBLE_FROM."""
    if name not in _columns(table):
        return
    with _exclusive_lock(table):
        op.drop_column(table, name)


def create_index(name: str, table: str, columns: Columns, *, unique: bool = False, where: str | None = None) -> None:
    """Create an index, of the rows for which a condition holds if there is one; on PostgreSQL CONCURRENTLY."""
    condition = None if where is None else text(where)
    columns = list(columns)
    driver = _online_connection()
    if driver is None:
        op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
        return
    for attempt in _attempts():
        with attempt:
            # A server goes on with the index of a client that was killed. This lock waits for it, and no insert for us.
            with driver.transaction():
                driver.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
            is_valid = _is_valid(name)
            if is_valid:
                return
            if is_valid is not None:
                log.info("migration.invalid_index_dropped", index=name)
                op.drop_index(name, table, postgresql_concurrently=True)
            op.create_index(
                name, table, columns, unique=unique, postgresql_where=condition, postgresql_concurrently=True
            )


def drop_index(name: str, table: str) -> None:
    """Drop an index; on PostgreSQL CONCURRENTLY."""
    for attempt in _attempts():
        with attempt:
            op.drop_index(name, table, if_exists=True, postgresql_concurrently=_online_connection() is not None)


def replace_index(name: str, table: str, columns: Columns, *, unique: bool = False, where: str | None = None) -> None:
    """Create an index in the place of one of the same name, which serves until then."""
    new = f"{name}_new"
    create_index(new, table, columns, unique=unique, where=where)
    drop_index(name, table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER INDEX {new} RENAME TO {name}")
    else:  # SQLite cannot rename an index
        drop_index(new, table)
        create_index(name, table, columns, unique=unique, where=where)


def alter_table(table: str, *actions: str) -> None:
    """Run actions of ALTER TABLE that look at no row, on PostgreSQL. A constraint is checked by `validate` later."""
    for action in actions:
        if not MOMENTARY.fullmatch(action):
            raise ValueError(f"it may read or write every row of {table} under an exclusive lock: {action}")
    if any("SET NOT NULL" in each for each in actions) and any(each.startswith("DROP") for each in actions):
        raise ValueError(f"constraints of {table} are dropped first, and then every row is read for SET NOT NULL")
    with _exclusive_lock(table):
        op.execute(f"ALTER TABLE {table} {', '.join(actions)}")


def validate(table: str, constraint: str) -> None:
    """Check the rows that were there before a constraint that was added NOT VALID; on PostgreSQL. None has to wait."""
    op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")


def backfill(table: str, key: str, values: str, where: str) -> None:
    """Run `UPDATE table SET values WHERE where`, by slices of the key's order, with a pause as long as each slice took.

    The condition must not hold for a row that has its values: then it is passed over when the step is repeated.
    """
    conn = op.get_bind()
    following = f"SELECT {key} FROM {table} WHERE {key} > :after ORDER BY {key} LIMIT {SLICE}"  # noqa: S608 - names of ours
    last = text(f"SELECT max({key}) FROM ({following}) AS slice")  # noqa: S608 - as above
    change = text(f"UPDATE {table} SET {values} WHERE {key} > :after AND {key} <= :until AND ({where})")  # noqa: S608 - as above
    after = ""
    while (until := conn.scalar(last, {"after": after})) is not None:
        started = time.monotonic()
        conn.execute(change, {"after": after, "until": until})
        after = until
        if _online_connection() is not None:
            time.sleep(time.monotonic() - started)


def execute(statement: str, **values: str) -> None:
    """Execute a statement that changes a few rows, and may be repeated."""
    op.execute(text(statement).bindparams(**values))


def is_on(dialect: str) -> bool:
    """Return whether the ledger is on this database: `postgresql` or `sqlite`."""
    return op.get_bind().dialect.name == dialect


@contextmanager
def _exclusive_lock(table: str) -> Iterator[None]:
    """Lock a table against everybody, in a transaction; who waits for us does so for LOCK_TIMEOUT_MS at most."""
    driver = _online_connection()
    if driver is None:
        yield
        return
    with driver.transaction():
        driver.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        # No insert waits for this lock. An automatic VACUUM gives way to it, and comes back later; but only to one that
        # waits for longer (deadlock_timeout) than we let others wait for us.
        driver.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
        for attempt in _attempts():
            with attempt, driver.transaction():
                driver.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                driver.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


def _attempts() -> Iterable[stamina.Attempt]:
    """Yield attempts until one does not fail for want of a lock."""
    return stamina.retry_context(
        _is_lock_failure, attempts=None, timeout=None, wait_initial=FIRST_WAIT, wait_max=LONGEST_WAIT
    )


def _is_lock_failure(failure: Exception) -> bool:
    cause = failure.orig if isinstance(failure, DBAPIError) else failure
    return getattr(cause, "sqlstate", None) in LOCK_FAILURES


def _online_connection() -> OnlineConnection | None:
    """Return the driver's connection where each statement is a transaction of its own."""
    conn = op.get_bind()
    if conn.dialect.name != "postgresql" or conn.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        return None
    driver: OnlineConnection | None = conn.connection.driver_connection
    return driver


def _columns(table: str) -> set[str]:
    return {column["name"] for column in inspect(op.get_bind()).get_columns(table)}


def _is_valid(index: str) -> bool | None:
    query = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:index)")
    found: bool | None = op.get_bind().scalar(query, {"index": index})
    return found
