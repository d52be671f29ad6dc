"""Parse fields of documents whose schema is not fixed: texts, identifiers, currencies and exact amounts."""

import re
from collections.abc import Callable, Iterable
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any, Generic, NamedTuple, TypeVar

from handlers.kit.key_identifiers import normalize
from ingest.events import LONGEST_TEXT, LONGEST_USER_ID, sanitize_text

T = TypeVar("T")

ISO_4217_LENGTH = 3
MAX_DIGITS = 50
"""The digits that a number may have before its point, and behind it."""

NUMBER = re.compile(r"[+-]?\d{1,200}(\.\d{1,200})?([eE][+-]?\d{1,9})?", re.ASCII)

# Room for the sum of a googol of such numbers; it raises rather than lose a digit.
EXACT_CONTEXT = Context(prec=4 * MAX_DIGITS, traps=[Inexact, InvalidOperation, Overflow])


class FieldValue(NamedTuple, Generic[T]):
    """A field of a document: its value, or what is wrong with what was found instead."""

    value: T | None
    problem: str | None = None
    found: Any = None


def first_valid(found: Iterable[Any], parse: Callable[[Any], T]) -> FieldValue[T]:
    """Return the first value that can be parsed, or what is wrong with the first one.

    None and an empty text are skipped. `parse` raises ValueError, with a text that continues the field's name.
    """
    invalid: FieldValue[T] = FieldValue(None)
    for value in found:
        if value is None or value == "":
            continue
        try:
            return FieldValue(parse(value))
        except ValueError as error:
            if invalid.problem is None:
                invalid = FieldValue(None, str(error), value)
    return invalid


def parse_text(value: Any) -> str:
    """Parse a text, or a whole number, that names something. Raise ValueError."""
    return _text(value, LONGEST_TEXT)


def parse_user_id(value: Any) -> str:
    """Parse a user's id. Raise ValueError."""
    return _text(value, LONGEST_USER_ID)


def parse_key(value: Any) -> str:
    """Parse the identifier of a charging key, and normalize it. Raise ValueError."""
    return normalize(parse_text(value))


def parse_currency(value: Any) -> str:
    """Parse a currency; one that looks like a code of ISO 4217 is put in capitals. Raise ValueError."""
    name = parse_text(value)
    return name.upper() if len(name) == ISO_4217_LENGTH and name.isascii() and name.isalpha() else name


def parse_decimal(value: Any) -> Decimal:
    """Parse a number of decoded JSON, or a text such as `12.50`, `-3`, `1e3`, without a float. Raise ValueError.

    The result has no exponent, and a zero has no sign, so that each database returns it as it was.
    """
    match value:
        case bool():
            raise ValueError("is not a number")
        case int() | Decimal():
            number = Decimal(value)
        case str() if NUMBER.fullmatch(value.strip()):
            number = Decimal(value.strip())
        case _:
            raise ValueError("is not a number")
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):  # NaN, Infinity
        raise ValueError("is not a number")  # noqa: TRY004 - the value is wrong, not the call
    if number.adjusted() >= MAX_DIGITS or -exponent > MAX_DIGITS:
        raise ValueError("has too many digits")
    return Decimal(format(number or number.copy_abs(), "f"))


def total(amounts: Iterable[tuple[Decimal, int]]) -> Decimal:
    """Add up amounts, each with how often it counts, without rounding."""
    result = Decimal()
    for amount, times in amounts:
        result = EXACT_CONTEXT.add(result, EXACT_CONTEXT.multiply(amount, Decimal(times)))
    return result


def _text(value: Any, max_length: int) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("is not text")  # noqa: TRY004 - the value is wrong, not the call
    if len(value) > max_length:
        raise ValueError("is too long")
    return sanitize_text(value)
