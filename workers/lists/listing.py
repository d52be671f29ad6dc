"""What a list shows: fields defined once for JSON and CSV, and the columns of the table that people see."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any, Generic, TextIO, TypeAlias, TypeVar

from rich.text import Text

from workers.lists.formatting import Cell, Json, cell_text, format_decimal, iso, printable

FORMULA = tuple(
    "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)

Row = TypeVar("Row")
Value: TypeAlias = "Json | datetime | Decimal"


@dataclass(frozen=True)
class Listing(Generic[Row]):
    """The fields of a row, in the order of JSON and CSV, and the columns of the table under their headings.

    A column is the name of a field, or computes a cell that only people see.
    """

    fields: Mapping[str, Callable[[Row], Value]]
    columns: Mapping[str, str | Callable[[Row], Cell]] = field(default_factory=dict)
    wrapping: int = 1
    """How many columns at the right wrap on a narrow terminal."""
    order: str = "newest"
    """Which rows a limit leaves."""

    def json(self, row: Row) -> dict[str, Json]:
        """Return a row for programs."""
        return {name: _json(value(row)) for name, value in self.fields.items()}

    def cells(self, row: Row) -> list[Text]:
        """Return a row as the table shows it."""
        return [cell_text(value) for value in self.values(row)]

    def values(self, row: Row) -> list[object]:
        """Return a row as the table shows it, its values not formatted yet."""
        cells = (self.fields[each] if isinstance(each, str) else each for each in self.columns.values())
        return [cell(row) for cell in cells]

    def write_csv(self, file: TextIO, rows: Iterable[Row], *, has_heading: bool = True) -> int:
        """Write rows as CSV under the names of their fields, and return how many; without rows nothing is written.

        Without a heading they go on below others.
        """
        count = 0
        writer = csv.writer(file, lineterminator="\n")
        for count, row in enumerate(rows, start=1):
            if count == 1 and has_heading:
                writer.writerow(self.fields)
            writer.writerow([csv_cell(value) for value in self.json(row).values()])
        return count


def attributes(*names: str, **paths: str) -> dict[str, Callable[[Any], Value]]:
    """Return the fields that are attributes of a row: those of the same name, and those at a path like `run.error`."""
    return {name: attrgetter(path) for name, path in ({name: name for name in names} | paths).items()}


def csv_cell(value: Json) -> str:
    """Format one cell on one line; what a spreadsheet would run as a formula begins with ', but a number does not."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case list():
            return csv_cell("; ".join(each if isinstance(each, str) else json.dumps(each) for each in value))
        case dict():
            return csv_cell(json.dumps(value))
    text = printable(str(value))
    return f"'{text}" if text.lstrip().startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def _json(value: Value) -> Json:
    match value:
        case datetime():
            return iso(value)
        case Decimal():  # as text, since many programs read JSON's numbers as floats
            return format_decimal(value)
        case tuple():
            return list(value)
        case _:
            return value
