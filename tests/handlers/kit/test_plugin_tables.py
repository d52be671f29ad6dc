"""The tables of a plugin have its names, and say of personal data whose it is and how long it is kept."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, String

from handlers import PluginTables
from handlers.kit.column_types import UtcDateTime

AT, USER, KEY = ("at", UtcDateTime), ("user_id", String), ("id", Integer)
SESSION, TEXT = ("session_id", String), ("at", String)
YEAR = {"at": "at", "keep_for": timedelta(days=365)}


@pytest.fixture
def tables():
    return PluginTables("thanks", migrations=Path("thanks_migrations"))


def table(tables, *columns, name="plugin_thanks_told", **said):
    return tables.table(name, *(Column(*each, primary_key=each is KEY) for each in columns), **said)


def test_a_table_knows_whose_rows_it_has_and_how_long(tables):
    made = table(tables, KEY, USER, AT, user="user_id", **YEAR)
    (known,) = tables.tables
    assert (known.table, known.user, known.session, known.at) == (made, made.c.user_id, None, made.c.at)
    assert known.keep_for == timedelta(days=365)


def test_a_table_without_personal_data_needs_to_say_nothing(tables):
    table(tables, KEY)
    (known,) = tables.tables
    assert (known.user, known.session, known.at, known.keep_for) == (None, None, None, timedelta())


@pytest.mark.parametrize("name", ["told", "plugin_thanked_told", "plugin_thanks_schema_version", "plugin_thanks_" * 5])
def test_a_name_that_another_table_may_have_is_refused(tables, name):
    with pytest.raises(TypeError, match="begin with plugin_thanks_, do not end with _schema_version"):
        table(tables, KEY, name=name)


@pytest.mark.parametrize(
    ("columns", "said", "problem"),
    [
        ((KEY, USER, AT), YEAR, 'has a column user_id: say user="user_id"'),
        ((KEY, SESSION, AT), YEAR, 'has a column session_id: say session="session_id"'),
        ((KEY, USER, AT), {"user": "user_id"}, "needs at= and keep_for="),
        ((KEY, USER, AT), {"user": "user_id", "at": "at"}, "needs at= and keep_for="),
        ((KEY, AT), {"keep_for": timedelta(0)}, "needs at= and keep_for="),
        ((KEY, TEXT), YEAR, "plugin_thanks_told.at needs the type UtcDateTime"),
        ((KEY, AT), {"user": "driver"}, "has no column driver"),
        ((AT,), YEAR, "needs a primary key"),
    ],
)
def test_personal_data_that_nobody_could_erase_is_refused(tables, columns, said, problem):
    with pytest.raises(TypeError, match=problem):
        table(tables, *columns, **said)


@pytest.mark.parametrize("name", ["Thanks", "my thanks", "", "t" * 31])
def test_a_plugin_with_tables_has_a_short_plain_name(name):
    with pytest.raises(TypeError, match="cannot name tables"):
        PluginTables(name, migrations=Path())
