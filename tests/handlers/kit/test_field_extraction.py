from decimal import Decimal, Inexact

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.kit.field_extraction import (
    first_valid,
    parse_currency,
    parse_decimal,
    parse_key,
    parse_text,
    parse_user_id,
    total,
)


@pytest.mark.parametrize(
    ("found", "picked"),
    [
        ([], (None, None, None)),
        ([None, ""], (None, None, None)),
        (["a", "b"], ("a", None, None)),
        ([{"amount": 1}, "b"], ("b", None, None)),
        ([None, [], "x" * 201], (None, "is not text", [])),
        (["x" * 201, []], (None, "is too long", "x" * 201)),
    ],
)
def test_the_first_valid_value_counts(found, picked):
    assert first_valid(found, parse_text) == picked


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (17, "17"), (0, "0"), (" ", " "), ("a\0\ud800", "a\\u0000\\ud800")]
)
def test_a_text_or_a_whole_number_is_a_text(value, text):
    assert parse_text(value) == text


@pytest.mark.parametrize("value", [True, 1.5, {}, []])
def test_other_types_are_not_a_text(value):
    with pytest.raises(ValueError, match="is not text"):
        parse_text(value)


def test_a_name_is_never_truncated():
    assert len(parse_user_id("x" * 500)) == 500
    with pytest.raises(ValueError, match="too long"):
        parse_user_id("x" * 501)


@pytest.mark.parametrize(("value", "currency"), [("eur", "EUR"), ("€", "€"), ("Bitcoin", "Bitcoin"), (978, "978")])
def test_a_currency_code_is_in_capitals(value, currency):
    assert parse_currency(value) == currency


def test_a_key_is_normalized():
    assert parse_key("04:A1") == "04a1"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Decimal("7.030"), "7.030"),
        ("12.50", "12.50"),
        (" -3 ", "-3"),
        (12, "12"),
        (10**49, "1" + "0" * 49),
        ("1e3", "1000"),
        (Decimal("25e-4"), "0.0025"),
        (Decimal("-0.00"), "0.00"),
        ("-0", "0"),
        ("0." + "1" * 50, "0." + "1" * 50),
    ],
)
def test_a_number_is_parsed_to_its_last_digit(value, written):
    assert str(parse_decimal(value)) == written


@pytest.mark.parametrize(
    "value",
    [True, None, 1.5, "", "12,50", "1.234,50", "€ 5", "NaN", "Infinity", "0x10", ".5", "٣", {}, [], "1e1234567890"],
)
def test_other_values_are_not_a_number(value):
    with pytest.raises(ValueError, match="is not a number"):
        parse_decimal(value)


@pytest.mark.parametrize(
    "value",
    [
        10**50,
        Decimal("1e400"),
        Decimal("0e400"),
        Decimal("1e999999999"),
        "1e-999999999",
        Decimal("1e-51"),
        "0." + "1" * 51,
    ],
)
def test_a_number_with_too_many_digits_is_refused(value):
    with pytest.raises(ValueError, match="too many digits"):
        parse_decimal(value)


def test_no_digit_is_lost_in_a_sum():
    tenth = Decimal("0.1")
    assert str(total([(tenth, 3)])) == "0.3"
    assert str(total([(Decimal("1e49"), 10), (Decimal("1e-50"), 1)])) == "1" + "0" * 50 + "." + "0" * 49 + "1"
    with pytest.raises(Inexact):
        total([(Decimal("1e200"), 1), (Decimal("1e-200"), 1)])


@given(st.lists(st.tuples(st.integers(-(10**49), 10**49), st.integers(1, 100)), max_size=20))
def test_a_sum_is_exact(pairs):
    amounts = [(parse_decimal(f"{number}e-20"), times) for number, times in pairs]
    expected = sum(number * times for number, times in pairs)
    assert total(amounts) == Decimal(f"{expected}e-20")
