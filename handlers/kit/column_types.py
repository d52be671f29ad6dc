"""Types of columns that mean the same on SQLite and PostgreSQL, for the ledger's tables and for those of plugins."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import DateTime, Numeric, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from ingest.events import sanitize_text

WITHOUT_ZONE = len("2025-06-12 10:56:51.000000")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, kept in UTC; SQLite knows no zones, so there it is stored without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Keep text on SQLite, in the format of its own functions, and read it in C."""
        return String() if dialect.name == "sqlite" else DateTime(timezone=True)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """Refuse a naive time: its zone would be guessed."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be kept in the ledger")
        try:
            value = value.astimezone(UTC)
        except OverflowError:  # the first or last hours of the calendar; an event may claim any time
            value = value.replace(tzinfo=UTC)
        return value.isoformat(" ", "microseconds")[:WITHOUT_ZONE] if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | str | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Give back an aware time in UTC."""
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        return value and value.astimezone(UTC)


class EnumText(TypeDecorator[StrEnum]):
    """A member of an enum of words, kept as its text."""

    impl = String
    cache_ok = True

    def __init__(self, words: type[StrEnum]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Store plain text: drivers have ideas of their own about enums."""
        return None if value is None else str.__str__(self.words(value))

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Give back the member."""
        return None if value is None else self.words(value)


class UntrustedText(TypeDecorator[str]):
    """A text from code that is not ours, such as an exception: whatever is in it can be stored."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Escape what a database refuses."""
        return None if value is None else sanitize_text(value)


class ExactNumeric(TypeDecorator[Decimal]):
    """An exact number; SQLite would keep it as a float, so there it is text, which cannot be added up in SQL."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Keep text on SQLite."""
        return String() if dialect.name == "sqlite" else Numeric()

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | str | None:
        """Refuse what is no number."""
        if value is not None and not value.is_finite():
            raise ValueError("NaN and Infinity cannot be kept in the ledger")
        return str(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Decimal | str | None, dialect: Dialect) -> Decimal | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Give back the number, to its last digit."""
        return None if value is None else Decimal(value)


#: An id or a name, compared byte by byte; PostgreSQL would follow the rules of a language, which is slow, and for the
#: beginning of an id wrong.
BinaryCollatedText = String().with_variant(String(collation="C"), "postgresql")
