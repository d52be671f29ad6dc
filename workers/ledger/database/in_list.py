"""Compares a column with many values that are given as one parameter.

The statement stays the same however many they are, so it is built, compiled and planned once.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Column, Text, bindparam
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from workers.ledger.tables.core import to_json


class TextArray(TypeDecorator[Collection[str]]):
    """Several texts in one parameter, as a JSON array: drivers pass that on without looking into it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Collection[str] | None, dialect: Dialect) -> str:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Write the array."""
        return to_json(list(value or ()))


class InList(FunctionElement[bool]):
    """True where the column has one of the values.

    It is not given the type Boolean: for SQLite, which has none, SQLAlchemy would write `… = 1`, and hide the index.
    """

    inherit_cache = True


def in_list(column: Column[Any], values: Collection[str] | str) -> InList:
    """Say that the column has one of the values, or of those that come as the parameter of that name."""
    if isinstance(values, str):
        return InList(column, bindparam(values, type_=TextArray))
    return InList(column, bindparam(None, values, type_=TextArray))


@compiles(InList, "sqlite")
def _on_sqlite(element: InList, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - compiled by SQLAlchemy


@compiles(InList, "postgresql")
def _on_postgresql(element: InList, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} = ANY (ARRAY(SELECT json_array_elements_text(CAST({values} AS json))))"
