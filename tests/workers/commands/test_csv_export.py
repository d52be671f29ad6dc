import csv
import io

import pytest

from workers.commands.csv_export import cell, write_csv


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1", "\N{FULLWIDTH EQUALS SIGN}1", "=", "-", "--5"]
)
def test_a_formula_from_the_wire_becomes_text(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-12.50", "+3", "-7", "0", "12.50", "r-1", "a=b", "", "user@example.com"])
def test_numbers_and_other_texts_are_left_as_they_are(text):
    assert cell(text) == text


@pytest.mark.parametrize(("text", "shown"), [("\t=1", "\\t=1"), ("\r\n=1", "\\r\\n=1"), ("a\x1b[31m", "a\\x1b[31m")])
def test_what_a_program_would_obey_is_written_out(text, shown):
    assert cell(text) == shown


def test_rows_are_read_back_as_they_were_written():
    file = io.StringIO()
    rows = [{"a": 'say "no", twice', "b": None, "c": True}, {"a": "x;y", "b": ["one", "two"], "c": 3}]
    assert write_csv(file, rows) == 2
    read = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert read == [{"a": 'say "no", twice', "b": "", "c": "true"}, {"a": "x;y", "b": "one; two", "c": "3"}]
