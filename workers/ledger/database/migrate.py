"""Migrate a database to the tables of this version, or return how its tables compare with them.

A new migration is a file in `migrations/versions`; a test fails while the migrations and `tables` differ.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, inspect, make_url, text

from ingest.errors import SettingsError
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrations import VERSION_TABLE
from workers.ledger.tables import metadata

MIGRATIONS = Path(__file__).parent / "migrations"

#: How long a process on SQLite waits for another one that migrates; on PostgreSQL it waits without a limit.
BUSY_TIMEOUT = timedelta(minutes=1)

#: The key of the advisory lock: any number that never changes.
LOCK = 0x7067_6C65_6467_6572


@dataclass(frozen=True)
class MigrationBranch:
    """Migrations in a folder, the tables that they make, and the table with the revision up to which they have run."""

    folder: Path
    version_table: str
    metadata: MetaData


LEDGER = MigrationBranch(MIGRATIONS / "versions", VERSION_TABLE, metadata)


class SchemaState(StrEnum):
    """How a database's tables compare with those of this version."""

    PENDING = "pending"
    """Migrations are pending, or no table is there yet."""

    CURRENT = "current"
    """They are the same."""

    NEWER = "newer"
    """A newer version has migrated them, and this one can work with them."""

    INCOMPATIBLE = "incompatible"
    """A newer version has migrated them, and this one lacks a column there, or would leave one of theirs empty."""


SENTENCES = {
    SchemaState.PENDING: "The database does not have this version's tables: run `webhooks migrate`.",
    SchemaState.CURRENT: "The database has this version's tables.",
    SchemaState.NEWER: "The database's tables are newer than this version, which can work with them.",
    SchemaState.INCOMPATIBLE: "The database's tables are newer than this version, which cannot work with them:"
    " install the newer version again, or restore the database of this one.",
}


def migrate(url: str) -> SchemaState:
    """Run the pending migrations in one transaction; concurrent processes wait for each other.

    Returns the state that it found. Raises SettingsError for a database whose encoding is not UTF8.
    """
    file = _file(url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    with migration(url) as conn:
        state = _ledger_state(conn)
        if state is SchemaState.PENDING:
            _adopt_shared_version_table(conn)
            upgrade(conn, LEDGER)
        return state


@contextmanager
def migration(url: str) -> Iterator[Connection]:
    """Open the transaction of a migration, alone: concurrent processes wait."""
    engine = create_ledger_engine(url, busy_timeout=BUSY_TIMEOUT)
    try:
        with engine.begin() as conn:
            if conn.dialect.name == "postgresql":
                conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            yield conn
    finally:
        engine.dispose()


def upgrade(conn: Connection, branch: MigrationBranch) -> None:
    """Run the pending migrations. Raise Alembic's CommandError if they are no chain."""
    command.upgrade(_config(conn, branch), "head")


def schema_state(url: str) -> SchemaState:
    """Return how the tables compare; changes and creates nothing. Raises as `migrate` does."""
    file = _file(url)
    if file is not None and not file.exists():
        return SchemaState.PENDING
    engine = create_ledger_engine(url)
    try:
        with engine.connect() as conn:
            return _ledger_state(conn)
    finally:
        engine.dispose()


def schema_revision(conn: Connection) -> str | None:
    """Return the last migration of the ledger's own tables; None if there is none."""
    heads = MigrationContext.configure(conn, opts={"version_table": LEDGER.version_table}).get_current_heads()
    return max(heads, default=None)


def _ledger_state(conn: Connection) -> SchemaState:
    if conn.dialect.name == "postgresql":
        encoding = conn.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise SettingsError(
                f"DATABASE_URL: the database's encoding is {encoding}, which cannot hold every event;"
                " create one with ENCODING 'UTF8' (TEMPLATE template0)."
            )
    return branch_state(conn, LEDGER)


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


def _adopt_shared_version_table(conn: Connection) -> None:
    """Move our revision out of Alembic's usual table, where an application in the same database would meet it."""
    inspector = inspect(conn)
    if inspector.has_table(VERSION_TABLE) or not all(
        map(inspector.has_table, ("alembic_version", "deliveries", "runs"))
    ):
        return
    known = {script.revision for script in ScriptDirectory.from_config(_config(conn, LEDGER)).walk_revisions()}
    ours = known & set(conn.scalars(text("SELECT version_num FROM alembic_version")))
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


def _file(url: str) -> Path | None:
    parts = make_url(url)
    return Path(parts.database) if parts.get_backend_name() == "sqlite" and parts.database else None
