import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.kit.key_identifiers import candidate_spellings, normalize, reversed_bytes
from ingest.config.sections.authorization import ByteOrder


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("04A1B2C3", "04a1b2c3"),
        ("04:a1:B2:c3", "04a1b2c3"),
        ("0x04a1", "04a1"),
        (" 04 a1\n", "04a1"),
        ("4a1", "4a1"),
        ("DE-XYZ-C1", "de-xyz-c1"),
        ("", ""),
        ("\ud800", "\ud800"),
    ],
)
def test_an_identifier_has_one_normal_spelling(text, normal):
    assert normalize(text) == normal
    assert normalize(normal) == normal


def test_spellings_are_as_received_and_reversed():
    assert candidate_spellings("C3B2A104", ByteOrder.EITHER) == ("c3b2a104", "04a1b2c3")
    assert candidate_spellings("C3B2A104", ByteOrder.LITTLE) == ("c3b2a104",)
    assert candidate_spellings("C3B2A104", ByteOrder.BIG) == ("04a1b2c3",)
    assert candidate_spellings("a1a1", ByteOrder.EITHER) == ("a1a1",)


@given(st.binary(min_size=1, max_size=10))
def test_reversing_the_bytes_twice_changes_nothing(key):
    assert reversed_bytes(reversed_bytes(key.hex())) == key.hex()


@given(st.text())
def test_any_text_has_a_spelling(text):
    for order in ByteOrder:
        assert candidate_spellings(text, order)
