"""An empty ledger of each kind, for the parts of policies that read and write it."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.tables import metadata


@pytest.fixture
def ledger(database_url: str) -> Iterator[Engine]:
    """An empty ledger, once of each kind."""
    engine = create_ledger_engine(database_url, creates_file=True)
    metadata.create_all(engine)
    yield engine
    engine.dispose()
