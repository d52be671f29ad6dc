"""Tolerant parsing of JSON that raises nothing but Unreadable."""

import json
import math
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from ingest.errors import Unreadable

# Before an element of an array, or behind the last one.
NEXT_ELEMENT = re.compile(r"\s*[\[,]?\s*([^\s])")


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
    if body[:1] == b"{" and body[1:2] != b"\0":  # as nearly all are: neither UTF-16 nor a byte order mark
        return body.decode("utf-8", "surrogatepass")
    return body.decode(json.detect_encoding(body), "surrogatepass")


def array_texts(text: str) -> list[str]:
    """Return the text of each element of a JSON array that can be parsed, as it was written."""
    elements: list[str] = []
    end = 0
    while (found := NEXT_ELEMENT.match(text, end)) and found[1] != "]":
        _, end = EXACT_DECODER.raw_decode(text, found.start(1))
        elements.append(text[found.start(1) : end])
    return elements


def canonical_json(text: str) -> str:
    """Return a JSON document in one form: keys in order, no blanks, and `12.5` for `12.50`. Raise ValueError.

    One that is nested too deeply is returned as it is.
    """
    try:
        return json.dumps(CANONICAL_DECODER.decode(text), sort_keys=True, separators=(",", ":"))
    except RecursionError:
        return text


def canonical_number(number: Decimal) -> str:
    """Return the same text for equal numbers, however they were written."""
    sign, digits, exponent = number.as_tuple()
    written = "".join(map(str, digits))
    significant = written.rstrip("0")
    if not significant or not isinstance(exponent, int):
        return "0" if not significant else str(number)
    return f"{'-' * sign}{significant}e{exponent + len(written) - len(significant)}"


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


def _canonical(digits: str) -> str:
    number = _parse_decimal(digits)
    return canonical_number(number) if isinstance(number, Decimal) else number


# No database stores NaN, Infinity or numbers beyond its range: they stay text. Control characters are accepted.
DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_decimal, parse_constant=str, strict=False)
EXACT_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_parse_decimal, parse_constant=str, strict=False)
# All numbers become texts, so that 12 and 12.0 are one.
CANONICAL_DECODER = json.JSONDecoder(parse_int=_canonical, parse_float=_canonical, parse_constant=str, strict=False)
