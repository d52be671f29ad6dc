"""The warm-up: the statements of a batch are run and rolled back."""

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.tables import metadata
from workers.ledger.warm_up import compile_statements, warm_up


@pytest.mark.parametrize(("warm_up", "open_connections"), [(compile_statements, 0), (warm_up, 1)])
def test_a_warm_up_leaves_no_rows(ledger, warm_up, open_connections):
    warm_up(ledger.engine)
    assert ledger.engine.pool.checkedin() == open_connections
    with ledger.begin() as conn:
        assert not [
            table.name for table in metadata.sorted_tables if conn.scalar(select(func.count()).select_from(table))
        ]


def test_a_database_without_tables_is_an_error(tmp_path):
    with pytest.raises(SQLAlchemyError):
        warm_up(create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}"))
