"""Insert many rows with one statement, converted column by column where SQLAlchemy converts value by value.

Most of a batch's time in the database is spent here; `connection.execute` takes two to three times as long.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, Table, select
from sqlalchemy.engine import Dialect

from workers.ledger.database.conditions import in_list

Key = tuple[Any, ...]
Values = Mapping[str, Any]


def insert_new(conn: Connection, table: Table, rows: Iterable[Values]) -> set[Key]:
    """Insert the rows with new primary keys, and return these keys. Rows have every column."""
    form = insert_form(table, conn.dialect)
    by_key = form.by_key(rows)
    if conn.dialect.name != "sqlite":
        return set(_write(conn, form, by_key, f"ON CONFLICT DO NOTHING RETURNING {', '.join(form.keys)}"))
    # sqlite3 cannot return rows of an executemany; but this transaction has the write lock, so a SELECT before does.
    for known in conn.execute(form.known, {"leading": {key[0] for key in by_key}}):
        by_key.pop(tuple(known), None)
    _write(conn, form, by_key, "")
    return set(by_key)


def upsert(conn: Connection, table: Table, rows: Iterable[Values]) -> None:
    """Insert rows, or replace those with the same primary keys. Rows have every column."""
    form = insert_form(table, conn.dialect)
    changes = ", ".join(f"{name} = excluded.{name}" for name in form.converters if name not in form.keys)
    _write(conn, form, form.by_key(rows), f"ON CONFLICT ({', '.join(form.keys)}) DO UPDATE SET {changes}")


@dataclass(frozen=True, eq=False)
class InsertForm:
    """How rows of a table are inserted in one dialect."""

    keys: tuple[str, ...]
    #: By column, in the table's order: the conversion for the driver, if any.
    converters: Mapping[str, Callable[[Any], Any] | None]
    types: Mapping[str, str]
    statement: str
    #: The existing keys, by their first part.
    known: Select[Any]

    def by_key(self, rows: Iterable[Values]) -> dict[Key, Values]:
        """Return rows by their primary keys; of several rows with the same key the last one stands."""
        if len(self.keys) == 1:
            (name,) = self.keys
            return {(row[name],): row for row in rows}
        return {tuple([row[name] for name in self.keys]): row for row in rows}

    def bind(self, rows: Sequence[Values]) -> dict[str, list[Any]]:
        """Return the values of each column as the driver takes them."""
        return {name: _bind_column(convert, [row[name] for row in rows]) for name, convert in self.converters.items()}


@cache
def insert_form(table: Table, dialect: Dialect) -> InsertForm:
    """Return how rows of a table are inserted."""
    leading = next(iter(table.primary_key))
    return InsertForm(
        keys=tuple(column.name for column in table.primary_key),
        converters={column.name: column.type.dialect_impl(dialect).bind_processor(dialect) for column in table.c},
        types={column.name: column.type.compile(dialect).partition(" COLLATE ")[0] for column in table.c},
        statement=f"INSERT INTO {table.name} ({', '.join(column.name for column in table.c)})",
        known=select(*table.primary_key).where(in_list(leading, "leading")),
    )


def _write(conn: Connection, form: InsertForm, by_key: Mapping[Key, Values], ending: str) -> Sequence[Key]:
    if not by_key:
        return []
    # In the order of keys, so that workers with the same rows never deadlock.
    rows = [by_key[key] for key in sorted(by_key)]
    columns = form.bind(rows)
    if conn.dialect.name == "sqlite":
        source = f"VALUES ({', '.join('?' for _ in columns)})"
        conn.exec_driver_sql(f"{form.statement} {source} {ending}", list(zip(*columns.values(), strict=True)))
        return []
    # One binary parameter a column, neither quoted nor parsed: an array, or the value that all rows share.
    shared = {name for name, values in columns.items() if values.count(values[0]) == len(values)} - set(form.keys)
    arrays = [name for name in columns if name not in shared]
    values = ", ".join(f"%b::{form.types[name]}" if name in shared else name for name in columns)
    source = f"SELECT {values} FROM unnest({', '.join(f'%b::{form.types[name]}[]' for name in arrays)})"  # noqa: S608 - names and types of ours only
    bound = [columns[name][0] for name in columns if name in shared] + [columns[name] for name in arrays]
    result = conn.exec_driver_sql(f"{form.statement} {source} AS given ({', '.join(arrays)}) {ending}", tuple(bound))
    return [tuple(row) for row in result] if result.returns_rows else []


def _bind_column(convert: Callable[[Any], Any] | None, values: list[Any]) -> list[Any]:
    if convert is None:
        return values
    converted: list[Any] = []
    before, after = None, convert(None)
    for value in values:
        if value is not before:  # rows of a batch often share a value, which is then converted once
            before, after = value, convert(value)
        converted.append(after)
    return converted
