from decimal import Decimal, Inexact

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.kit.field_extraction import parse_decimal, total


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
def test_a_number_is_read_to_its_last_digit(value, written):
    assert str(parse_decimal(value)) == written


@pytest.mark.parametrize(
    "value",
    [True, None, 1.5, "", "12,50", "1.234,50", "€ 5", "NaN", "Infinity", "0x10", ".5", "٣", {}, [], "1e1234567890"],
)
def test_what_is_no_number_is_not_taken_for_one(value):
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
def test_a_number_that_no_ledger_can_keep_is_refused(value):
    with pytest.raises(ValueError, match="too many digits"):
        parse_decimal(value)


def test_no_digit_is_lost_in_a_sum():
    tenth = Decimal("0.1")
    assert str(total([(tenth, 3)])) == "0.3"
    assert str(total([(Decimal("1e49"), 10), (Decimal("1e-50"), 1)])) == "1" + "0" * 50 + "." + "0" * 49 + "1"
    with pytest.raises(Inexact):
        total([(Decimal("1e200"), 1), (Decimal("1e-200"), 1)])


@given(st.lists(st.tuples(st.integers(-(10**49), 10**49), st.integers(1, 100)), max_size=20))
def test_a_sum_is_that_of_whole_numbers(pairs):
    amounts = [(parse_decimal(f"{number}e-20"), times) for number, times in pairs]
    expected = sum(number * times for number, times in pairs)
    assert total(amounts) == Decimal(f"{expected}e-20")
