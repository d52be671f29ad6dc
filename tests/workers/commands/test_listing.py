import csv
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from workers.commands.listing import Listing, Page, attributes, csv_cell

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


def test_json_has_every_field_in_its_order_and_each_row_at_once(capsys):
    def rows():
        yield Thing("one", NOON, Decimal("1.10"), ("a",), good=True)
        printed = json.loads(capsys.readouterr().out)
        assert printed == {"name": "one", "at": "2026-05-04T12:00:00Z", "amount": "1.10", "tags": ["a"], "good": True}
        assert list(printed) == list(LISTING.fields)

    LISTING.print(rows(), Page(as_json=True))
    assert capsys.readouterr().out == ""


def test_a_table_shows_fields_as_people_read_them_and_cells_of_its_own(capsys):
    LISTING.print([Thing("one", NOON, Decimal("1.10"), ("a",), good=True), Thing("two")], Page())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["good", "name", "amount", "first"], ["yes", "one", "1.10", "a"], ["no", "two", "-", "-"]]


@pytest.mark.parametrize(("limit", "hint"), [(2, "The newest 2; --limit shows more.\n"), (3, ""), (None, "")])
def test_a_table_that_its_limit_may_have_cut_ends_with_a_hint(capsys, limit, hint):
    LISTING.print([Thing("one"), Thing("two")], Page(limit))
    assert capsys.readouterr().err == hint


def test_a_field_that_is_no_cell_needs_a_column_that_formats_it():
    with pytest.raises(TypeError, match="tuple"):
        Listing[Thing](fields=attributes("tags"), columns={"tags": "tags"}).cells(Thing("one"))


@pytest.mark.parametrize(
    ("limit", "as_json", "as_csv", "found"),
    [(None, False, False, 50), (None, True, False, None), (None, False, True, None), (7, True, False, 7)],
)
def test_without_a_limit_a_person_reads_a_screen_and_a_program_everything(limit, as_json, as_csv, found):
    assert Page.of(limit, as_json=as_json, as_csv=as_csv) == Page(found, as_json)
