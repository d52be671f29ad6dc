"""Migrate a database to the tables of this version, or return whether a migration is pending.

A new migration is a file in `migrations/versions`; a test fails while the migrations and `tables` differ.
"""

from datetime import timedelta
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text

from workers.ledger.database.engine import create_ledger_engine

MIGRATIONS = Path(__file__).parent / "migrations"

#: How long a process on SQLite waits for another one that migrates; on PostgreSQL it waits without a limit.
BUSY_TIMEOUT = timedelta(minutes=1)

#: The key of the advisory lock: any number that never changes.
LOCK = 0x7067_6C65_6467_6572


def migrate(url: str) -> None:
    """Run the pending migrations in one transaction; concurrent processes wait for each other."""
    file = _file(url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    engine = create_ledger_engine(url, busy_timeout=BUSY_TIMEOUT)
    try:
        with engine.begin() as conn:
            if conn.dialect.name == "postgresql":
                conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            command.upgrade(_config(conn), "head")
    finally:
        engine.dispose()


def pending(url: str) -> bool:
    """Return whether migrations are pending; changes and creates nothing."""
    file = _file(url)
    if file is not None and not file.exists():
        return True
    engine = create_ledger_engine(url)
    try:
        with engine.connect() as conn:
            done = set(MigrationContext.configure(conn).get_current_heads())
            return done != set(ScriptDirectory.from_config(_config(conn)).get_heads())
    finally:
        engine.dispose()


def _config(conn: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = conn
    return config


def _file(url: str) -> Path | None:
    parts = make_url(url)
    return Path(parts.database) if parts.get_backend_name() == "sqlite" and parts.database else None
