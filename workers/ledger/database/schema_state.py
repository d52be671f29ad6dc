"""Compare the tables of a database with those of this version, without Alembic, which takes long to import."""

from enum import StrEnum
from pathlib import Path

from sqlalchemy import Connection, inspect, select, text

from ingest.errors import SettingsError
from workers.ledger.database.engine import create_ledger_engine, database_file
from workers.ledger.database.migrations import VERSION_TABLE
from workers.ledger.tables.core_tables import ledger_identity

MIGRATIONS = Path(__file__).parent / "migrations"
NUMBER_DIGITS = 4


class SchemaState(StrEnum):
    """How a database's tables compare with those of this version."""

    PENDING = "pending"
    """Migrations are pending, or no table is there yet."""

    CURRENT = "current"
    """They are the same."""

    NEWER = "newer"
    """A newer version has migrated them, and this one can work with them."""

    INCOMPATIBLE = "incompatible"
    """A newer version has migrated them, and says that this one is too old to work with them."""


SENTENCES = {
    SchemaState.PENDING: "The database does not have this version's tables: run `webhooks migrate`.",
    SchemaState.CURRENT: "The database has this version's tables.",
    SchemaState.NEWER: "The database's tables are newer than this version, which can work with them.",
    SchemaState.INCOMPATIBLE: "The database's tables are newer than this version, which cannot work with them:"
    " install the newer version again, or restore the database of this one.",
}


def schema_state(url: str) -> SchemaState:
    """Return how the tables of a database compare; changes and creates nothing. Raises as `schema_state_of`."""
    if not is_there(url):
        return SchemaState.PENDING
    engine = create_ledger_engine(url)
    try:
        with engine.connect() as conn:
            return schema_state_of(conn)
    finally:
        engine.dispose()


def schema_state_of(conn: Connection) -> SchemaState:
    """Return how the tables compare. Raise SettingsError for a database whose encoding is not UTF8."""
    if conn.dialect.name == "postgresql":
        encoding = conn.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise SettingsError(
                f"DATABASE_URL: the database's encoding is {encoding}, which cannot hold every event;"
                " create one with ENCODING 'UTF8' (TEMPLATE template0)."
            )
    return compare_schema(conn)


def is_there(url: str) -> bool:
    """Return whether the database can be read without creating it: a file of SQLite may not exist yet."""
    file = database_file(url)
    return file is None or file.exists()


def known_migrations() -> list[str]:
    """Return the numbers of this version's migrations, in their order."""
    return sorted(path.name[1 : 1 + NUMBER_DIGITS] for path in (MIGRATIONS / "versions").glob("v*.py"))


def applied_migration(conn: Connection) -> str | None:
    """Return the number of the newest migration that has run, or None if none has."""
    if not inspect(conn).has_table(VERSION_TABLE):
        return None
    number: str | None = conn.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - a constant
    return number


def compatible_from(conn: Connection) -> str | None:
    """Return the migration that a version must know to work with these tables; None if any may."""
    least: str | None = conn.scalar(select(ledger_identity.c.compatible_from))
    return least


def compare_schema(conn: Connection) -> SchemaState:
    """Return how the tables of this database compare."""
    known, applied = known_migrations(), applied_migration(conn)
    if applied == known[-1]:
        return SchemaState.CURRENT
    if applied is None or applied in known:
        return SchemaState.PENDING
    least = compatible_from(conn)
    return SchemaState.NEWER if least is None or least <= known[-1] else SchemaState.INCOMPATIBLE
