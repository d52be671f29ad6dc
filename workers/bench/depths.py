"""How far things have come on a stage: what waits in the inbox, and what is settled in the ledger."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from sqlalchemy import Engine, func, select

from ingest.config.settings import Settings
from ingest.inbox.schema import FILE_NAME
from workers.ledger.database.engine import read_only
from workers.ledger.tables.core import deliveries

SETTLED = select(func.count()).select_from(deliveries).where(deliveries.c.settled_at.is_not(None))


@contextmanager
def opened_inbox(settings: Settings) -> Iterator[sqlite3.Connection]:
    """Open the inbox of a door to look at it only."""
    with closing(sqlite3.connect(f"file:{settings.data_dir / FILE_NAME}?mode=ro", uri=True)) as inbox:
        yield inbox


def waiting_in(inbox: sqlite3.Connection) -> int:
    """Count what is on disk and not settled yet."""
    (count,) = inbox.execute("SELECT count(*) FROM deliveries").fetchone()
    return int(count)


def settled_in(ledger: Engine) -> int:
    """Count the deliveries that are settled."""
    with read_only(ledger) as connection:
        return int(connection.execute(SETTLED).scalar_one())
