"""Migrate the tables of plugins' own: each plugin has its folder of migrations, and a table with its revision."""

from collections.abc import Iterable

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from handlers.kit.plugin_tables import VERSION_TABLE_SUFFIX, PluginTables
from ingest.errors import SettingsError, WebhooksError
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.database.migrate import MigrationBranch, branch_state, migration, upgrade
from workers.ledger.database.schema_state import SchemaState, is_there

WORKING = frozenset({SchemaState.CURRENT, SchemaState.NEWER})
SENTENCES = {
    SchemaState.PENDING: "The database does not have the tables of the plugin {}: run `webhooks migrate`.",
    SchemaState.CURRENT: "The database has the tables of the plugin {}.",
    SchemaState.NEWER: "The tables of the plugin {} are newer than it, and it can work with them.",
    SchemaState.INCOMPATIBLE: "The tables of the plugin {} are newer than it, and it cannot work with them:"
    " install its newer version again.",
}


class PluginMigrationFailed(WebhooksError):
    """Raised when the tables of a plugin cannot be migrated; one sentence that names the plugin."""


def migrate_plugin(url: str, tables: PluginTables) -> SchemaState:
    """Run the pending migrations of a plugin in one transaction, after ours; return the state that was found.

    Raise PluginMigrationFailed if a migration fails, which then has changed nothing, or if its tables cannot be used;
    SettingsError if its files are no chain of migrations.
    """
    with migration(url) as conn:
        state = plugin_state(conn, tables)
        if state is SchemaState.PENDING:
            try:
                upgrade(conn, _branch(tables))
            except Exception as error:  # foreign code: whatever it raises is that plugin's own
                text = " ".join(f"{type(error).__name__}: {getattr(error, 'orig', None) or error}".split())
                raise PluginMigrationFailed(f"A migration of the plugin {tables.plugin} fails: {text}") from error
        if state is SchemaState.INCOMPATIBLE:
            raise PluginMigrationFailed(SENTENCES[state].format(tables.plugin))
        return state


def migrate_and_describe_plugin(url: str, tables: PluginTables) -> str:
    """Run the pending migrations of a plugin, and return in a sentence what came of it. Raise as `migrate_plugin`."""
    if migrate_plugin(url, tables) is SchemaState.PENDING:
        return f"The database now has the tables of the plugin {tables.plugin}."
    return describe_plugin(url, tables)


def describe_plugin(url: str, tables: PluginTables) -> str:
    """Return in a sentence how the tables of a plugin compare; changes and creates nothing."""
    return SENTENCES[read_plugin_state(url, tables)].format(tables.plugin)


def read_plugin_state(url: str, tables: PluginTables) -> SchemaState:
    """Return how the tables of a plugin compare; changes and creates nothing. Raise SettingsError likewise."""
    if not is_there(url):
        return SchemaState.PENDING
    engine = create_ledger_engine(url)
    try:
        with read_only(engine) as conn:
            return plugin_state(conn, tables)
    finally:
        engine.dispose()


def plugin_state(conn: Connection, tables: PluginTables) -> SchemaState:
    """Return how the tables of a plugin compare with its migrations. Raise SettingsError as `migrate_plugin` does."""
    try:
        return branch_state(conn, _branch(tables))
    except SQLAlchemyError:
        raise
    except Exception as error:  # they are foreign code, and Alembic raises a KeyError for one that is missing
        raise SettingsError(
            f"The migrations in {tables.migrations} cannot be read: {type(error).__name__}: {error}."
        ) from error


def require_plugin_tables(engine: Engine, plugins: Iterable[PluginTables]) -> None:
    """Raise SettingsError unless all plugins can work with their tables; SQLAlchemyError without a database."""
    for tables in plugins:
        with read_only(engine) as conn:
            state = plugin_state(conn, tables)
        if state not in WORKING:
            raise SettingsError(SENTENCES[state].format(tables.plugin))


def differences_from_migrations(conn: Connection, tables: PluginTables) -> list[str]:
    """List how the migrated tables of a plugin differ from those in its code."""
    context = MigrationContext.configure(
        conn,
        opts={
            "version_table": tables.version_table,
            "compare_type": True,
            "include_name": lambda name, kind, _parents: kind != "table" or name in tables.metadata.tables,
        },
    )
    return [_difference(each) for each in compare_metadata(context, tables.metadata)]


def _difference(found: object) -> str:
    """Return a sentence for what Alembic has found: a tuple, or a list of those about one column."""
    what, *about = found[0] if isinstance(found, list) else tuple(found) if isinstance(found, tuple) else (found,)
    names = [str(getattr(each, "name", each)) for each in about if each is not None]
    return f"{what}: {' '.join(names)}"


def tables_of_others(conn: Connection, plugins: Iterable[PluginTables]) -> list[str]:
    """List the tables in the database that are of other plugins, or that one of these has no more."""
    known = {name for each in plugins for name in each.metadata.tables}
    found = [name for name in inspect(conn).get_table_names() if name.startswith("plugin_") and name not in known]
    return sorted(name for name in found if not name.endswith(VERSION_TABLE_SUFFIX))


def _branch(tables: PluginTables) -> MigrationBranch:
    return MigrationBranch(tables.migrations, tables.version_table, tables.metadata)
