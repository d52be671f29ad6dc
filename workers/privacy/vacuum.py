"""Rewrite the ledger's files, so that nothing of a deleted row is left in their free space."""

from typing import Any

from sqlalchemy import Engine

# Those that have, or had, anything of a driver.
TABLES = (
    "deliveries, runs, sessions, pushes, devices, cdrs, alerts, authorizations, balances, session_keys, rereads, gaps"
)


def vacuum_ledger(engine: Engine) -> None:
    """Rewrite the database. Nobody writes meanwhile, and on PostgreSQL nobody reads these tables either."""
    pooled = engine.raw_connection()
    try:
        connection: Any = pooled.driver_connection
        if engine.dialect.name == "sqlite":
            # A file of an older version becomes one that gives disk back.
            for statement in ("PRAGMA auto_vacuum = INCREMENTAL", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                connection.execute(statement).fetchall()
        else:
            connection.autocommit = True
            connection.execute(f"VACUUM (FULL) {TABLES}")
    finally:
        pooled.invalidate()  # it is not as the pool made it
