"""Tables of a plugin's own in the ledger, with migrations of their own; they are erased and deleted as ours are."""

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import Column, MetaData, Table
from sqlalchemy.schema import SchemaItem

from handlers.kit.column_types import UtcDateTime

NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")
LONGEST_TABLE_NAME = 63
"""What PostgreSQL allows; it cuts a longer one."""
VERSION_TABLE_SUFFIX = "_schema_version"
FOR_EVER = timedelta()
PERSONAL = ("user_id", "session_id")
"""Names of columns that surely name a driver or a session."""


@dataclass(frozen=True, slots=True, eq=False)
class PluginTable:
    """A table of a plugin, and what erasure and retention know of it."""

    table: Table
    user: Column[Any] | None
    """The driver's id: the rows of an erased driver are deleted."""
    session: Column[Any] | None
    """The session's id: the rows of an erased session are deleted."""
    at: Column[Any] | None
    """The time by which rows age."""
    keep_for: timedelta
    """How long rows are kept; zero is for ever."""


class PluginTables:
    """The tables of one plugin, and the folder of their migrations; `webhooks migrate` runs these.

    A module has it as a variable. All names of tables begin with `plugin_`, the plugin's name and `_`: no table of
    ours, or of another plugin, will ever have them.
    """

    def __init__(self, plugin: str, *, migrations: Path) -> None:
        if not NAME.fullmatch(plugin):
            raise TypeError(f"{plugin!r} cannot name tables: use small letters, digits and _, at most 30")
        self.plugin = plugin
        self.migrations = migrations
        self.metadata = MetaData()
        self.tables: list[PluginTable] = []

    @property
    def prefix(self) -> str:
        """What the names of its tables begin with."""
        return f"plugin_{self.plugin}_"

    @property
    def version_table(self) -> str:
        """The table with the revision up to which its migrations have run."""
        return f"plugin_{self.plugin}{VERSION_TABLE_SUFFIX}"

    def table(
        self,
        name: str,
        *items: SchemaItem,
        user: str | None = None,
        session: str | None = None,
        at: str | None = None,
        keep_for: timedelta | None = None,
    ) -> Table:
        """Return a table of these columns and indexes, for `ctx.write` and `ctx.read`.

        `user` and `session` name the columns with the id of a driver and of a session: `webhooks erase` deletes their
        rows. The clock deletes rows when their time `at`, a column of the type `UtcDateTime`, is `keep_for` ago;
        `timedelta(0)` is for ever. Raise TypeError for a table of personal data without these.
        """
        is_taken = name.endswith(VERSION_TABLE_SUFFIX)
        if not name.startswith(self.prefix) or is_taken or len(name) > LONGEST_TABLE_NAME:
            raise TypeError(
                f"{name!r} cannot name a table of the plugin {self.plugin}: begin with {self.prefix},"
                f" do not end with {VERSION_TABLE_SUFFIX}, and use at most {LONGEST_TABLE_NAME} characters"
            )
        table = Table(name, self.metadata, *items)
        if not table.primary_key.columns:
            raise TypeError(f"{name} needs a primary key")
        self.tables.append(
            PluginTable(table, _column(table, user), _column(table, session), _column(table, at), keep_for or FOR_EVER)
        )
        _check_privacy(self.tables[-1], is_limited=keep_for is not None)
        return table


def plugin_tables_of(module: ModuleType) -> list[PluginTables]:
    """Return the tables of plugins in a module, those that it has imported too, in its order."""
    return list(dict.fromkeys(each for each in vars(module).values() if isinstance(each, PluginTables)))


def _column(table: Table, name: str | None) -> Column[Any] | None:
    if name is None:
        return None
    if name not in table.c:
        raise TypeError(f"{table.name} has no column {name}")
    return table.c[name]


def _check_privacy(of: PluginTable, *, is_limited: bool) -> None:
    """Raise TypeError if an erasure would leave out a driver, or if nobody said how long personal data is kept."""
    name = of.table.name
    named = {column.name for column in (of.user, of.session) if column is not None}
    for column in PERSONAL:
        if column in of.table.c and column not in named:
            argument = column.removesuffix("_id")
            raise TypeError(f'{name} has a column {column}: say {argument}="{column}", so that it can be erased')
    if (named or of.at is not None or is_limited) and (of.at is None or not is_limited):
        raise TypeError(f"{name} needs at= and keep_for=: by which time rows age, and how long they are kept")
    if of.at is not None and not isinstance(of.at.type, UtcDateTime):
        raise TypeError(f"{name}.{of.at.name} needs the type UtcDateTime")
