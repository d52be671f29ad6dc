"""The id of a ledger, and which database it is in."""

import uuid

from sqlalchemy import Connection, Engine, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from workers.ledger.database.engine import database_file, read_only
from workers.ledger.tables.core_tables import ledger_identity

# The cluster and the database in it. A copy made from a dump differs, a standby that has taken over does not.
POSTGRESQL_STORAGE = """
SELECT system_identifier || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
FROM pg_control_system()
"""


def ledger_id(engine: Engine) -> str:
    """Return the id of the ledger. Raise SQLAlchemy's errors if the database is unavailable or not migrated."""
    with read_only(engine) as ledger:
        found = _find(ledger)
    if found is not None:
        return found
    try:
        with engine.begin() as ledger:  # its tables were not made by a migration
            ledger.execute(insert(ledger_identity).values(number=1, id=uuid.uuid4().hex[:12]))
    except IntegrityError:
        pass  # another process was faster
    with read_only(engine) as ledger:
        return str(_find(ledger))


def storage(engine: Engine) -> str:
    """Return which database the ledger is in, whatever its URL says; empty if that cannot be known."""
    if engine.dialect.name == "sqlite":
        file = database_file(engine.url)
        return "" if file is None else str(file.stat().st_ino)
    try:
        with read_only(engine) as ledger:
            return str(ledger.scalar(text(POSTGRESQL_STORAGE)) or "")
    except DBAPIError:  # no right to read it
        return ""


def _find(ledger: Connection) -> str | None:
    return ledger.scalar(select(ledger_identity.c.id))
