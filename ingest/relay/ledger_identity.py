"""Asks a ledger for its id, without the package that works with it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from ingest.config.settings import Settings

LEDGER_ID = "SELECT id FROM ledger_identity"
CONNECT_TIMEOUT = 3
"""In seconds."""


def ledger_file(settings: Settings) -> Path | None:
    """Return the file of the ledger; None if it is not on SQLite."""
    if "database_url" not in settings.model_fields_set:
        return settings.data_dir / "ledger.db"
    scheme, _, path = settings.database_url.partition(":///")
    return Path(path.partition("?")[0]) if scheme == "sqlite" else None


def ask_ledger_id(settings: Settings) -> str | None:
    """Return the id of the ledger at DATABASE_URL; None if it is not available, or not migrated."""
    file = ledger_file(settings)
    return _ask_postgresql(settings.database_url) if file is None else _ask_sqlite(file)


def _ask_sqlite(file: Path) -> str | None:
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as ledger:
            row = ledger.execute(LEDGER_ID).fetchone()
    except sqlite3.Error:  # it is not there, or not migrated
        return None
    return str(row[0]) if row else None


def _ask_postgresql(url: str) -> str | None:
    import psycopg  # noqa: PLC0415 - for a moment of the first start only

    address = url.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        with psycopg.connect(address, connect_timeout=CONNECT_TIMEOUT, autocommit=True) as ledger:
            row = ledger.execute(LEDGER_ID).fetchone()
    except psycopg.Error:
        return None
    return str(row[0]) if row else None
