import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Unreadable
from ingest.wire.json_documents import parse_json


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"{}", {}),
        (b" [1, 2.5, true, null] ", [1, 2.5, True, None]),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"[NaN, Infinity, -Infinity, 1e999]", ["NaN", "Infinity", "-Infinity", "1e999"]),
        (b"9" * 4300, int("9" * 4300)),
        (b"-" + b"9" * 5000, "-" + "9" * 5000),
        (b'"\\ud800\\u0000"', "\ud800\0"),
        (b'"\xed\xa0\x80\x00\n"', "\ud800\0\n"),
        ('"Ü"'.encode("utf-8-sig"), "Ü"),
        ('"Ü"'.encode("utf-16"), "Ü"),
    ],
)
def test_every_encoding_and_odd_value_is_parsed(raw, value):
    assert parse_json(raw) == value


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"0.1", Decimal("0.1")),
        (b"7.030", Decimal("7.030")),
        (b"0.1234567890123456789012345678901234567890", Decimal("0.1234567890123456789012345678901234567890")),
        (b"1e400", Decimal("1e400")),
        (b"-0.0", Decimal("-0.0")),
        (b"1e9999999999999999999", "1e9999999999999999999"),
        (b"NaN", "NaN"),
        (b"12", 12),
    ],
)
def test_with_exact_a_number_keeps_every_digit(raw, value):
    read = parse_json(raw, exact=True)
    assert (read, type(read), str(read)) == (value, type(value), str(value))


@pytest.mark.parametrize("raw", [b"", b"{", b"{'a': 1}", b"\xff\xff", b"\xfe\xff\xd8", b"1 2", b"\x00" * 7])
def test_a_body_that_is_not_json_is_unreadable(raw):
    with pytest.raises(Unreadable, match="not JSON"):
        parse_json(raw)


def test_a_document_that_is_nested_too_deeply_is_unreadable():
    with pytest.raises(Unreadable, match="too deeply"):
        parse_json(b"[" * 200_000 + b"]" * 200_000)


@given(st.binary() | st.from_regex(rb"\A[\[\]{}\",:0-9eE.+\-\\utrfalsn\x00\xed\xa0 ]*\Z"))
def test_no_bytes_ever_raise_anything_else(raw):
    for exact in (False, True):
        try:
            value = parse_json(raw, exact=exact)
        except Unreadable:
            continue
        assert not isinstance(value, float) or (math.isfinite(value) and not exact)
