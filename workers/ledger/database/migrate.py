"""Migrate a database to the tables of this version while the processes of the version before use it.

A new migration is a file in `migrations/versions`, see the README there; a test fails while the migrations and `tables`
differ.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, inspect, text

from workers.ledger.database.engine import create_ledger_engine, database_file
from workers.ledger.database.migrations import VERSION_TABLE
from workers.ledger.database.schema_state import (
    MIGRATIONS,
    SchemaState,
    applied_migration,
    is_there,
    known_migrations,
    schema_state_of,
)
from workers.ledger.tables import metadata

#: How long a process on SQLite waits for another one that migrates; on PostgreSQL it waits without a limit.
BUSY_TIMEOUT = timedelta(minutes=1)

#: The key of the advisory lock: any number. Not the one that earlier versions wait for in a statement: the creation of
#: an index CONCURRENTLY would wait for that statement's snapshot.
LOCK = 0x7067_6C65_6467_6572 + 1
LOCK_POLL = 0.2


@dataclass(frozen=True)
class MigrationBranch:
    """Migrations in a folder, the tables that they make, and the table with the revision up to which they have run."""

    folder: Path
    version_table: str
    metadata: MetaData


LEDGER = MigrationBranch(MIGRATIONS / "versions", VERSION_TABLE, metadata)


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration: its number, and in one line what it does."""

    number: str
    summary: str


def migrate(url: str, *, report: Callable[[Migration], object] = bool, until: str | None = None) -> SchemaState:
    """Run the pending migrations, up to the last or `until` one; concurrent processes wait for each other.

    Each is recorded when it has ended; one that was killed is run again. Calls `report` before each. Returns the state
    that it found. Raises SettingsError for a database whose encoding is not UTF8.
    """
    file = database_file(url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    engine = create_ledger_engine(url, creates_file=True, busy_timeout=BUSY_TIMEOUT)
    try:
        with _alone(engine) as check_alone:
            with engine.begin() as conn:
                found = schema_state_of(conn)
                if found is SchemaState.PENDING:
                    _adopt_shared_version_table(conn)
                    if applied_migration(conn) is None:  # nobody uses these tables yet
                        _upgrade(conn, _pending(conn, until), report)
            while found is SchemaState.PENDING and _upgrade_once(engine, until, report):
                check_alone()
            return found
    finally:
        engine.dispose()


@contextmanager
def migration(url: str) -> Iterator[Connection]:
    """Open the transaction of a migration, alone: concurrent processes wait."""
    engine = create_ledger_engine(url, creates_file=True, busy_timeout=BUSY_TIMEOUT)
    try:
        with _alone(engine), engine.begin() as conn:
            yield conn
    finally:
        engine.dispose()


def upgrade(conn: Connection, branch: MigrationBranch, revision: str = "head") -> None:
    """Run the pending migrations. Raise Alembic's CommandError if they are no chain."""
    command.upgrade(_config(conn, branch), revision)


def branch_state(conn: Connection, branch: MigrationBranch) -> SchemaState:
    """Return how the tables of a branch compare with its migrations. Raise Alembic's CommandError as `upgrade` does."""
    scripts = ScriptDirectory.from_config(_config(conn, branch))
    done = set(MigrationContext.configure(conn, opts={"version_table": branch.version_table}).get_current_heads())
    if done == set(scripts.get_heads()):
        return SchemaState.CURRENT
    if done <= {script.revision for script in scripts.walk_revisions()}:
        return SchemaState.PENDING
    return SchemaState.NEWER if _can_be_used(conn, branch.metadata) else SchemaState.INCOMPATIBLE


def _can_be_used(conn: Connection, metadata: MetaData) -> bool:
    """Return whether this version's statements can run: its columns are there, and others need no value."""
    inspector = inspect(conn)
    for table in metadata.tables.values():
        if not inspector.has_table(table.name):
            return False
        found = {column["name"]: column for column in inspector.get_columns(table.name)}
        if not found.keys() >= set(table.columns.keys()):
            return False
        unknown = (found[name] for name in found.keys() - set(table.columns.keys()))
        if any(not column["nullable"] and column["default"] is None for column in unknown):
            return False
    return True


def pending_migrations(url: str) -> list[Migration]:
    """Return the migrations that are still to run; changes and creates nothing. Raises as `migrate` does."""
    if not is_there(url):
        return [_describe(script) for script in _scripts()]
    engine = create_ledger_engine(url)
    try:
        with engine.connect() as conn:
            return (
                [_describe(script) for script in _pending(conn)] if schema_state_of(conn) is SchemaState.PENDING else []
            )
    finally:
        engine.dispose()


@contextmanager
def _alone(engine: Engine) -> Iterator[Callable[[], object]]:
    """Wait until no other process migrates; yield what raises if the connection with the lock is lost.

    It is the lock of a transaction, which a pooler such as PgBouncer leaves on one connection. On SQLite each migration
    takes the write lock.
    """
    if engine.dialect.name != "postgresql":
        yield lambda: None
        return
    # Besides, it takes no snapshot, and ends the one of the SELECT before: an index would wait for it.
    stay = text("SET LOCAL idle_in_transaction_session_timeout = 0")
    with engine.connect() as conn:
        while not conn.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": LOCK}):
            conn.rollback()
            time.sleep(LOCK_POLL)
        conn.execute(stay)
        yield lambda: conn.execute(stay)


def _upgrade_once(engine: Engine, until: str | None, report: Callable[[Migration], object]) -> bool:
    """Run the next migration. Return whether there was one."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            return _upgrade(conn, _pending(conn, until)[:1], report)
    with engine.begin() as conn:
        return _upgrade(conn, _pending(conn, until)[:1], report)


def _upgrade(conn: Connection, scripts: Sequence[Script], report: Callable[[Migration], object]) -> bool:
    for script in scripts:
        report(_describe(script))
        oldest = getattr(script.module, "COMPATIBLE_FROM", None)
        if oldest is not None:  # before the first step: a process that is too old must not start any more
            conn.execute(text("UPDATE ledger_identity SET compatible_from = :oldest"), {"oldest": oldest})
        upgrade(conn, LEDGER, script.revision)
    return bool(scripts)


def _pending(conn: Connection, until: str | None = None) -> list[Script]:
    applied = applied_migration(conn) or ""
    return [
        script for script in _scripts() if applied < script.revision and (until is None or script.revision <= until)
    ]


def _scripts() -> list[Script]:
    directory = ScriptDirectory(str(MIGRATIONS))
    return [directory.get_revision(number) for number in known_migrations()]


def _describe(script: Script) -> Migration:
    return Migration(script.revision, script.doc)


def _adopt_shared_version_table(conn: Connection) -> None:
    """Move our revision out of Alembic's usual table, where an application in the same database would meet it."""
    inspector = inspect(conn)
    if inspector.has_table(VERSION_TABLE) or not all(
        map(inspector.has_table, ("alembic_version", "deliveries", "runs"))
    ):
        return
    ours = set(known_migrations()) & set(conn.scalars(text("SELECT version_num FROM alembic_version")))
    for revision in ours:
        command.stamp(_config(conn, LEDGER), revision)
        conn.execute(text("DELETE FROM alembic_version WHERE version_num = :revision"), {"revision": revision})
    if ours and conn.scalar(text("SELECT count(*) FROM alembic_version")) == 0:
        conn.execute(text("DROP TABLE alembic_version"))


def _config(conn: Connection, branch: MigrationBranch) -> Config:
    config = Config()
    for name, folder in (("script_location", MIGRATIONS), ("version_locations", branch.folder)):
        config.set_main_option(name, str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")  # else a folder with a space in its name would be two
    config.attributes.update(connection=conn, branch=branch)
    return config
