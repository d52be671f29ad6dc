"""Amounts to their last digit: read without a float on the way, added up without rounding."""

import re
from collections.abc import Iterable
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any

MAX_DIGITS = 50
"""How many digits a number may have before its point, and how many behind it."""

NUMBER = re.compile(r"[+-]?\d{1,200}(\.\d{1,200})?([eE][+-]?\d{1,9})?", re.ASCII)

# Room for the sum of a googol of such numbers. Were a digit lost all the same, it would raise.
EXACT_CONTEXT = Context(prec=4 * MAX_DIGITS, traps=[Inexact, InvalidOperation, Overflow])


def read_decimal(value: Any) -> Decimal:
    """Read a number out of decoded JSON, or a text that is one: `12.50`, `-3`, `1e3`. Raise ValueError.

    It is written without an exponent, and zero without a sign, so that each database gives it back as it was.
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
        raise ValueError("is not a number")  # noqa: TRY004 - what was read is wrong, not how it was asked for
    if number.adjusted() >= MAX_DIGITS or -exponent > MAX_DIGITS:
        raise ValueError("has too many digits")
    return Decimal(format(number or number.copy_abs(), "f"))


def total(amounts: Iterable[tuple[Decimal, int]]) -> Decimal:
    """Add up amounts, each as often as is said beside it."""
    found = Decimal()
    for amount, times in amounts:
        found = EXACT_CONTEXT.add(found, EXACT_CONTEXT.multiply(amount, Decimal(times)))
    return found
