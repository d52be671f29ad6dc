"""CSV that a spreadsheet reads as values: nothing that came over the wire is a formula in it."""

import csv
import re
from collections.abc import Iterable, Mapping
from typing import TextIO

from workers.commands.output import Json, printable

FORMULA = tuple(
    "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


def write_csv(file: TextIO, rows: Iterable[Mapping[str, Json]]) -> int:
    """Write rows under their names, one a line, and return how many they are; without a row there are no names."""
    count = 0
    writer = csv.writer(file, lineterminator="\n")
    for count, row in enumerate(rows, start=1):
        if count == 1:
            writer.writerow(row)
        writer.writerow([cell(value) for value in row.values()])
    return count


def cell(value: Json) -> str:
    """Write one cell, on one line. What a spreadsheet would take for a formula begins with '; a number is none."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case list():
            return cell("; ".join(map(str, value)))
    text = printable(str(value))
    return f"'{text}" if text.lstrip().startswith(FORMULA) and not NUMBER.fullmatch(text) else text
