"""Migrations create the tables of the code, once, whichever process runs them."""

import multiprocessing
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate, pending
from workers.ledger.tables import metadata


def test_the_migrations_create_the_tables_of_the_code(database_url: str) -> None:
    migrate(database_url)
    engine = create_ledger_engine(database_url)
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_partial_indexes_are_partial_in_the_database_too(database_url: str) -> None:
    migrate(database_url)
    engine = create_ledger_engine(database_url)
    option = f"{engine.dialect.name}_where"
    wanted = {
        (table.name, str(index.name), index.dialect_options[engine.dialect.name]["where"] is not None)
        for table in metadata.tables.values()
        for index in table.indexes
    }
    found = {
        (table, index["name"], option in index.get("dialect_options", {}))
        for table in metadata.tables
        for index in inspect(engine).get_indexes(table)
        if "duplicates_constraint" not in index
    }
    assert found == wanted
    engine.dispose()


def test_migrations_are_pending_until_they_have_run(database_url: str) -> None:
    assert pending(database_url)
    migrate(database_url)
    assert not pending(database_url)
    migrate(database_url)


def test_pending_creates_no_file(tmp_path: Path) -> None:
    assert pending(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_the_database_is_created(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new 100%' / 'ledger.db'}"
    migrate(url)
    assert not pending(url)


def test_concurrent_migrations_wait_for_each_other(database_url: str) -> None:
    fresh = multiprocessing.get_context("spawn")
    processes = [fresh.Process(target=migrate, args=(database_url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert not pending(database_url)
