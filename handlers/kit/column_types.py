"""Column types that behave the same on SQLite and PostgreSQL, for the tables of the ledger and of plugins."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import DateTime, Numeric, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from ingest.events import sanitize_text

LENGTH_WITHOUT_ZONE = len("2025-06-12 10:56:51.000000")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC; SQLite has no time zones, so it is stored there without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Use text on SQLite, in the format of its own functions."""
        return String() if dialect.name == "sqlite" else DateTime(timezone=True)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """Convert to UTC. Raise ValueError for a naive time."""
        if value is None:
            return None
        if value.tzinfo is not UTC:
            value = _in_utc(value)
        return value.isoformat(" ", "microseconds")[:LENGTH_WITHOUT_ZONE] if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | str | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Return an aware time in UTC."""
        if isinstance(value, str):
            return datetime.fromisoformat(value + "+00:00")  # a fifth of the time that `replace` would take
        return value if value is None or value.tzinfo is UTC else value.astimezone(UTC)


def _in_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time without a zone cannot be stored in the ledger")
    try:
        return value.astimezone(UTC)
    except OverflowError:  # the first or last hours of the calendar; an event may claim any time
        return value.replace(tzinfo=UTC)


class EnumText(TypeDecorator[StrEnum]):
    """A member of a StrEnum, stored as its value."""

    impl = String
    cache_ok = True

    def __init__(self, enum: type[StrEnum]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Return a plain text: database drivers treat enums differently."""
        return None if value is None else str.__str__(self.enum(value))

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Return the member."""
        return None if value is None else self.enum(value)


class UntrustedText(TypeDecorator[str]):
    """A text from foreign code, such as an exception: it can be stored whatever is in it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Escape characters that a database refuses."""
        return None if value is None else sanitize_text(value)


class ExactNumeric(TypeDecorator[Decimal]):
    """An exact number; SQLite would store a float, so it is text there, which SQL cannot add up."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Use text on SQLite."""
        return String() if dialect.name == "sqlite" else Numeric()

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | str | None:
        """Raise ValueError for NaN and Infinity."""
        if value is not None and not value.is_finite():
            raise ValueError("NaN and Infinity cannot be stored in the ledger")
        return str(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Decimal | str | None, dialect: Dialect) -> Decimal | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Return the number, to its last digit."""
        return None if value is None else Decimal(value)


#: An id or a name, compared byte by byte: PostgreSQL's collations by language are slow, and wrong for prefixes.
BinaryCollatedText = String().with_variant(String(collation="C"), "postgresql")
