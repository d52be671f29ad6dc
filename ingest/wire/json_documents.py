"""Tolerant parsing of JSON that raises nothing but Unreadable."""

import json
import math
from decimal import Decimal, InvalidOperation
from typing import Any

from ingest.errors import Unreadable


def parse_json(body: bytes, *, exact: bool = False) -> Any:
    """Parse JSON in UTF-8, UTF-16 or UTF-32, with or without a byte order mark. Raise Unreadable.

    Of two equal keys the last one counts. Texts may hold NUL and lone surrogates. With `exact`, numbers with a fraction
    or an exponent are decimals, digit by digit; otherwise they are floats.
    """
    try:
        return (EXACT_DECODER if exact else DECODER).decode(json_text(body))
    except RecursionError:
        raise Unreadable("The body is nested too deeply.") from None
    except ValueError:
        raise Unreadable("The body is not JSON.") from None


def json_text(body: bytes) -> str:
    """Decode the bytes of a JSON document as `parse_json` does. Raise ValueError if they are not text."""
    return body.decode(json.detect_encoding(body), "surrogatepass")


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # Python refuses to convert more than 4300 digits
        return digits


def _decimal(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _parse_decimal(digits: str) -> Decimal | str:
    try:
        return Decimal(digits)
    except InvalidOperation:  # an exponent of nineteen digits and more
        return digits


# No database stores NaN, Infinity or numbers beyond its range: they stay text. Control characters are accepted.
DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_decimal, parse_constant=str, strict=False)
EXACT_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_parse_decimal, parse_constant=str, strict=False)
