import csv
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from workers.lists.listing import Listing, attributes, csv_cell

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@dataclass
class Thing:
    """A row."""

    name: str
    at: datetime | None = None
    amount: Decimal | None = None
    tags: tuple[str, ...] = ()
    good: bool = False


LISTING = Listing[Thing](
    fields=attributes("name", "at", "amount", "tags", "good"),
    columns={
        "good": "good",
        "name": "name",
        "amount": "amount",
        "first": lambda thing: next(iter(thing.tags), None),
    },
)


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1", "\N{FULLWIDTH EQUALS SIGN}1", "=", "-", "--5"]
)
def test_a_formula_from_the_wire_becomes_text(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-12.50", "+3", "-7", "0", "12.50", "r-1", "a=b", "", "user@example.com"])
def test_numbers_and_other_texts_stay_as_they_are(text):
    assert csv_cell(text) == text


@pytest.mark.parametrize(("text", "shown"), [("\t=1", "\\t=1"), ("\r\n=1", "\\r\\n=1"), ("a\x1b[31m", "a\\x1b[31m")])
def test_control_characters_are_escaped(text, shown):
    assert csv_cell(text) == shown


def test_csv_is_read_back_as_it_was_written():
    listing = Listing[Thing](fields=attributes("name", "at", "amount", "tags", "good"), columns={})
    file = io.StringIO()
    rows = [Thing('say "no", twice', good=True), Thing("x;y", NOON, Decimal("1E+3"), ("one", "two"))]
    assert listing.write_csv(file, rows) == 2
    assert list(csv.DictReader(io.StringIO(file.getvalue()))) == [
        {"name": 'say "no", twice', "at": "", "amount": "", "tags": "", "good": "true"},
        {"name": "x;y", "at": "2026-05-04T12:00:00Z", "amount": "1000", "tags": "one; two", "good": "false"},
    ]
    assert listing.write_csv(file, []) == 0


def test_a_field_that_is_no_cell_needs_a_column_that_formats_it():
    with pytest.raises(TypeError, match="tuple"):
        Listing[Thing](fields=attributes("tags"), columns={"tags": "tags"}).cells(Thing("one"))
