"""Rewrite the ledger's files, so that nothing of a deleted row is left in their free space."""

from typing import Any

from sqlalchemy import Engine, inspect

from ingest.errors import WebhooksError
from workers.ledger.tables import metadata

NAMES_NOBODY = frozenset({"drive_readings", "erasures", "ledger_identity", "sightings", "signing_key_uses"})


AS_OWNER = "Run this as the role that owns them."


class VacuumFailed(WebhooksError):
    """Raised when the ledger's files could not be rewritten, as where the disk is full or a reader holds the log."""


def vacuum_ledger(engine: Engine) -> None:
    """Rewrite the database. Nobody writes meanwhile, and on PostgreSQL nobody reads these tables either.

    Raise VacuumFailed.
    """
    pooled = engine.raw_connection()
    try:
        connection: Any = pooled.driver_connection
        if engine.dialect.name == "sqlite":
            _vacuum_sqlite(connection)
        else:
            skipped = list[str]()
            connection.autocommit = True
            # A table that the role may not vacuum is left out with a warning, which is no error.
            connection.add_notice_handler(lambda notice: skipped.append(notice.message_primary or notice.severity))
            connection.execute(f"VACUUM (FULL) {', '.join(_tables(engine))}")
            if skipped:
                raise VacuumFailed(f"PostgreSQL left {len(skipped)} tables as they are: {skipped[0]}. {AS_OWNER}")
    except engine.dialect.loaded_dbapi.Error as error:
        raise VacuumFailed(f"The database could not be rewritten: {error}") from error
    finally:
        pooled.invalidate()  # it is not as the pool made it


def _vacuum_sqlite(connection: Any) -> None:
    # A file of an older version becomes one that gives disk back.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("VACUUM")
    is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise VacuumFailed("The database is rewritten, but a reader holds its log, which has deleted rows. Try again.")


def _tables(engine: Engine) -> list[str]:
    """List the tables that have, or had, anything of a driver: also those of plugins that are not loaded."""
    ours = metadata.tables.keys() - NAMES_NOBODY
    found = inspect(engine).get_table_names()
    return sorted(f'"{name}"' for name in found if name in ours or name.startswith("plugin_"))
