"""The migrations of plugins: each a chain of its own, with a table of its own for how far it has come."""

import pytest
from sqlalchemy import Column, Integer, inspect, text

from handlers.kit.plugin_tables import PluginTables
from ingest.errors import SettingsError
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.database.migrate_plugins import (
    PluginMigrationFailed,
    differences_from_migrations,
    migrate_plugin,
    require_plugin_tables,
    tables_of_others,
)
from workers.ledger.database.schema_state import SchemaState, schema_state

MIGRATION = """
from alembic import op
from sqlalchemy import Column, Integer

revision = {revision!r}
down_revision = {before!r}


def upgrade():
    {line}
"""


@pytest.fixture
def url(database_url):
    migrate(database_url)
    return database_url


@pytest.fixture
def thanks(tmp_path):
    return made("thanks", tmp_path / "a folder, with % in it" / "thanks_migrations")


@pytest.fixture
def engine(url):
    engine = create_ledger_engine(url)
    yield engine
    engine.dispose()


def made(name, folder):
    folder.mkdir(parents=True)
    tables = PluginTables(name, migrations=folder)
    tables.table(f"plugin_{name}_told", Column("id", Integer, primary_key=True))
    add(tables, "0001", f"op.create_table('plugin_{name}_told', Column('id', Integer, primary_key=True))")
    return tables


def add(tables, revision, line, before=None):
    file = tables.migrations / f"v{revision}.py"
    file.write_text(MIGRATION.format(revision=revision, before=before, line=line))


def columns(engine, table):
    return [column["name"] for column in inspect(engine).get_columns(table)]


def test_a_plugin_is_migrated_from_where_it_is_and_ours_stays_as_it_is(url, engine, thanks):
    with pytest.raises(SettingsError, match="does not have the tables of the plugin thanks: run `webhooks migrate`"):
        require_plugin_tables(engine, [thanks])
    assert migrate_plugin(url, thanks) is SchemaState.PENDING
    require_plugin_tables(engine, [thanks])
    add(thanks, "0002", "op.add_column('plugin_thanks_told', Column('price', Integer))", "0001")
    with pytest.raises(SettingsError, match="run `webhooks migrate`"):
        require_plugin_tables(engine, [thanks])
    assert [migrate_plugin(url, thanks) for _ in range(2)] == [SchemaState.PENDING, SchemaState.CURRENT]
    assert columns(engine, "plugin_thanks_told") == ["id", "price"]
    assert schema_state(url) is SchemaState.CURRENT


def test_two_plugins_have_the_same_revisions_and_do_not_meet(url, engine, thanks, tmp_path):
    others = made("others", tmp_path / "others_migrations")
    for each in (thanks, others):
        assert migrate_plugin(url, each) is SchemaState.PENDING
    require_plugin_tables(engine, [thanks, others])
    with engine.connect() as conn:
        assert tables_of_others(conn, [thanks]) == ["plugin_others_told"]
        assert tables_of_others(conn, [thanks, others]) == []


def test_a_migration_that_fails_leaves_nothing_behind(url, engine, thanks):
    add(thanks, "0002", "op.create_table('plugin_thanks_more', Column('id', Integer))\n    1 / 0", "0001")
    with pytest.raises(PluginMigrationFailed, match="A migration of the plugin thanks fails: ZeroDivisionError"):
        migrate_plugin(url, thanks)
    assert not [name for name in inspect(engine).get_table_names() if name.startswith("plugin_")]


@pytest.mark.filterwarnings("ignore:Revision 0002 referenced")
def test_files_that_are_no_chain_are_one_sentence(url, thanks):
    add(thanks, "0003", "pass", "0002")
    with pytest.raises(SettingsError, match=r"The migrations in .*thanks_migrations cannot be read: .*0002"):
        migrate_plugin(url, thanks)


def test_two_heads_are_one_sentence(url, thanks):
    add(thanks, "0002", "pass")
    with pytest.raises(PluginMigrationFailed, match="Multiple head revisions"):
        migrate_plugin(url, thanks)


def test_newer_tables_are_used_as_long_as_the_plugins_columns_are_there(url, engine, thanks):
    migrate_plugin(url, thanks)
    with engine.begin() as conn:
        conn.execute(text(f"UPDATE {thanks.version_table} SET version_num = 'newer'"))
    require_plugin_tables(engine, [thanks])
    assert migrate_plugin(url, thanks) is SchemaState.NEWER
    with engine.begin() as conn:
        conn.execute(text("ALTER TABLE plugin_thanks_told RENAME COLUMN id TO number"))
    with pytest.raises(SettingsError, match="cannot work with them: install its newer version again"):
        require_plugin_tables(engine, [thanks])
    with pytest.raises(PluginMigrationFailed, match="install its newer version again"):
        migrate_plugin(url, thanks)


def test_tables_are_compared_with_their_migrations(url, engine, thanks):
    migrate_plugin(url, thanks)
    with engine.connect() as conn:
        assert differences_from_migrations(conn, thanks) == []
        thanks.table("plugin_thanks_more", Column("id", Integer, primary_key=True))
        assert differences_from_migrations(conn, thanks) == ["add_table: plugin_thanks_more"]
