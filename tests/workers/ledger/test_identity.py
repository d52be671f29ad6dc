import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from ingest.relay.ledger_identity import LEDGER_ID
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.identity import ledger_id, storage
from workers.ledger.tables import metadata


def test_a_migration_makes_an_id_that_stays(database_url):
    migrate(database_url)
    engine = create_ledger_engine(database_url)
    first = ledger_id(engine)
    migrate(database_url)
    assert ledger_id(engine) == first
    assert len(first) == 12
    with engine.connect() as conn:
        assert [row.id for row in conn.exec_driver_sql(LEDGER_ID)] == [first]
    engine.dispose()


def test_tables_without_an_id_get_one_and_only_one(database_url):
    engine = create_ledger_engine(database_url, creates_file=True)
    metadata.create_all(engine)
    with ThreadPoolExecutor() as threads:
        assert len(set(threads.map(lambda _: ledger_id(engine), range(8)))) == 1
    engine.dispose()


def test_a_missing_file_is_not_created(tmp_path):
    engine = create_ledger_engine(f"sqlite:///{tmp_path}/ledger.db")
    with pytest.raises(OperationalError):
        ledger_id(engine)
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_tables_has_no_id(database_url):
    with pytest.raises(SQLAlchemyError):
        ledger_id(create_ledger_engine(database_url))


def test_a_copy_has_the_id_and_other_storage(tmp_path):
    migrate(f"sqlite:///{tmp_path}/ledger.db")
    shutil.copy(tmp_path / "ledger.db", tmp_path / "copy.db")
    original, copy = (create_ledger_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("ledger", "copy"))
    assert ledger_id(original) == ledger_id(copy)
    assert storage(original) == storage(original) != storage(copy)


def test_two_databases_of_one_server_are_different_storage(postgres_url, postgres_server):
    first = create_ledger_engine(postgres_url)
    other = create_ledger_engine(postgres_server.get_uri("postgres").replace("postgresql://", "postgresql+psycopg://"))
    assert "/" in storage(first)
    assert storage(first) != storage(other)
    for each in (first, other):
        each.dispose()
