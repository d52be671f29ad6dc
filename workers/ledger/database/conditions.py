"""Build conditions: a column has one of many values, or matches the filters that are set."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Column, ColumnElement, Connection, Table, Text, and_, bindparam, case, func, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from handlers.kit.column_types import BinaryCollatedText
from workers.ledger.tables.core_tables import to_json

LAST_CHARACTER = "\U0010ffff"

#: The time and the key of a row: where a page of a list ended.
Position: TypeAlias = tuple[datetime, str]


class TextArray(TypeDecorator[Collection[str]]):
    """Texts in one parameter, as a JSON array, which drivers pass on unchanged."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Collection[str] | None, dialect: Dialect) -> str:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Format the array."""
        return to_json(list(value or ()))


class InList(FunctionElement[bool]):
    """True where the column has one of the values.

    Its type is not Boolean: for SQLite, which has none, SQLAlchemy would compile `… = 1`, which hides the index.
    """

    inherit_cache = True


class InHashedList(FunctionElement[bool]):
    """True where the column has one of the values: no index finds these rows, others are read and looked up."""

    inherit_cache = True


class Unindexed(FunctionElement[Any]):
    """A column that SQLite must not use an index for: without statistics it misjudges which index has few rows."""

    inherit_cache = True

    def __init__(self, column: Column[Any]) -> None:
        super().__init__(column)
        self.type = column.type


def in_list(column: ColumnElement[Any], values: Collection[str] | str) -> InList:
    """Build the condition that the column has one of the values, or of those in the parameter of that name.

    They are one parameter (SQLite's IN over a JSON array, PostgreSQL's = ANY), so the statement does not depend on
    their number: it is built, compiled and planned once.
    """
    if isinstance(values, str):
        return InList(column, bindparam(values, type_=TextArray))
    return InList(column, bindparam(None, values, type_=TextArray))


def in_hashed_list(column: Column[Any], values: Collection[str]) -> InHashedList:
    """Build the same condition for so many values that rows are better found by another index."""
    return InHashedList(column, bindparam(None, values, type_=TextArray))


def matching(table: Table, **wanted: str | Collection[str] | None) -> list[ColumnElement[bool]]:
    """Build a condition for each column with a wanted value, or with several of which it must have one."""
    values = {table.c[name]: value for name, value in wanted.items() if value is not None}
    return [column == value if isinstance(value, str) else column.in_(value) for column, value in values.items()]


def same_person(column: Column[Any], user_id: str) -> ColumnElement[bool]:
    """Build the condition that the column has this user's id in any case, as a person may write it."""
    if user_id.isascii():  # by one value rows are found in the order of the index
        return func.lower(column) == func.lower(user_id)
    return in_list(func.lower(column), lowered(user_id))


def lowered(text: str) -> list[str]:
    """Return what the database may make lower() of a text in any case: of SQLite only ASCII is lowered."""
    # Not of letters that stand for others in upper case: whoever has "ss" in their address is not who has "ß".
    upper = "".join(each.upper() if each.upper().lower() == each else each for each in text.lower())
    ascii_only = ("".join(sign.lower() if sign.isascii() else sign for sign in each) for each in (text, upper))
    return sorted({text.lower(), *ascii_only})


def begins_with(conn: Connection, column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """Build the condition that a text begins with a prefix, in the order of bytes whatever its collation is."""
    end = prefix + LAST_CHARACTER
    if conn.dialect.name == "postgresql" and column.type is not BinaryCollatedText:
        return and_(column.op("~>=~", is_comparison=True)(prefix), column.op("~<~", is_comparison=True)(end))
    return and_(column >= prefix, column < end)


def within(
    column: ColumnElement[datetime], since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """Build the conditions `since <= column < until`, as far as these are set."""
    return [
        *([] if since is None else [column >= since]),
        *([] if until is None else [column < until]),
    ]


def older_than(
    at: ColumnElement[datetime], key: ColumnElement[str], before: Position | None
) -> list[ColumnElement[bool]]:
    """Build the conditions of the rows behind a position in a list that is ordered by `at.desc(), key`."""
    return [] if before is None else [at <= before[0], or_(at < before[0], key > before[1])]


def widened(new: sqlite.Insert | postgresql.Insert) -> dict[str, ColumnElement[datetime]]:
    """Return the values with which an upsert widens the span from `first_at` to `last_at` of the row that is there."""
    known, excluded = new.table.c, new.excluded
    return {
        "first_at": case((excluded.first_at < known.first_at, excluded.first_at), else_=known.first_at),
        "last_at": case((excluded.last_at > known.last_at, excluded.last_at), else_=known.last_at),
    }


@compiles(Unindexed)
def _plain(element: Unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(Unindexed, "sqlite")
def _with_plus(element: Unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"  # https://www.sqlite.org/optoverview.html#uplus


@compiles(InList, "sqlite")
def _on_sqlite(element: InList | InHashedList, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - compiled by SQLAlchemy


@compiles(InList, "postgresql")
def _on_postgresql(element: InList, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} = ANY (ARRAY(SELECT json_array_elements_text(CAST({values} AS json))))"


@compiles(InHashedList, "sqlite")
def _hashed_on_sqlite(element: InHashedList, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{_on_sqlite(element, compiler, **options)}"


@compiles(InHashedList, "postgresql")
def _hashed_on_postgresql(element: InHashedList, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT json_array_elements_text(CAST({values} AS json)))"
