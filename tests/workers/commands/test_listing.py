import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from workers.commands.listing import Page, print_rows
from workers.lists.listing import Listing, attributes

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


def test_json_has_every_field_in_its_order_and_each_row_at_once(capsys):
    def rows():
        yield Thing("one", NOON, Decimal("1.10"), ("a",), good=True)
        printed = json.loads(capsys.readouterr().out)
        assert printed == {"name": "one", "at": "2026-05-04T12:00:00Z", "amount": "1.10", "tags": ["a"], "good": True}
        assert list(printed) == list(LISTING.fields)

    print_rows(LISTING, rows(), Page(as_json=True))
    assert capsys.readouterr().out == ""


def test_csv_has_every_field_under_its_name(capsys):
    print_rows(LISTING, [Thing("=one", NOON, Decimal("1.10"), ("a", "b"), good=True)], Page(as_csv=True))
    assert capsys.readouterr().out.splitlines() == [
        "name,at,amount,tags,good",
        "'=one,2026-05-04T12:00:00Z,1.10,a; b,true",
    ]


def test_a_table_shows_fields_as_people_read_them_and_cells_of_its_own(capsys):
    print_rows(LISTING, [Thing("one", NOON, Decimal("1.10"), ("a",), good=True), Thing("two")], Page())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["good", "name", "amount", "first"], ["yes", "one", "1.10", "a"], ["no", "two", "-", "-"]]


@pytest.mark.parametrize(("limit", "hint"), [(2, "The newest 2; --limit shows more.\n"), (3, ""), (None, "")])
def test_a_table_that_its_limit_may_have_cut_ends_with_a_hint(capsys, limit, hint):
    print_rows(LISTING, [Thing("one"), Thing("two")], Page(limit))
    assert capsys.readouterr().err == hint


@pytest.mark.parametrize(
    ("limit", "as_json", "as_csv", "found"),
    [(None, False, False, 50), (None, True, False, None), (None, False, True, None), (7, True, False, 7)],
)
def test_without_a_limit_a_person_reads_a_screen_and_a_program_everything(limit, as_json, as_csv, found):
    assert Page.of(limit, as_json=as_json, as_csv=as_csv) == Page(found, as_json, as_csv)
