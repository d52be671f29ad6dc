import pytest

from handlers.kit.field_extraction import first_valid, parse_currency, parse_text, parse_user_id


@pytest.mark.parametrize(
    ("found", "picked"),
    [
        ([], (None, None)),
        ([None, ""], (None, None)),
        (["a", "b"], ("a", None)),
        ([{"amount": 1}, "b"], ("b", None)),
        ([None, [], "x" * 201], (None, "is not text")),
        (["x" * 201, []], (None, "is too long")),
    ],
)
def test_the_first_that_can_be_read_counts(found, picked):
    assert first_valid(found, parse_text) == picked


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (17, "17"), (0, "0"), (" ", " "), ("a\0\ud800", "a\\u0000\\ud800")]
)
def test_a_text_or_a_whole_number_names_something(value, text):
    assert parse_text(value) == text


@pytest.mark.parametrize("value", [True, 1.5, {}, []])
def test_nothing_else_does(value):
    with pytest.raises(ValueError, match="is not text"):
        parse_text(value)


def test_a_name_that_is_cut_would_be_another_name():
    assert len(parse_user_id("x" * 500)) == 500
    with pytest.raises(ValueError, match="too long"):
        parse_user_id("x" * 501)


@pytest.mark.parametrize(("value", "currency"), [("eur", "EUR"), ("€", "€"), ("Bitcoin", "Bitcoin"), (978, "978")])
def test_a_currency_is_written_in_capitals(value, currency):
    assert parse_currency(value) == currency
