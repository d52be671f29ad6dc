import json
from datetime import UTC, datetime, timedelta

import pytest

from workers.commands.output import human_duration, iso, json_line, local, printable, printable_body, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zürich", "Zürich"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\t\0", "a\\nb\\t\\x00"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
        ("\x9b", "\\x9b"),
    ],
)
def test_nothing_printed_moves_a_cursor(text, shown):
    assert printable(text) == shown


def test_a_body_keeps_its_lines():
    assert printable_body(b"a\nb\r\n\xff\x00") == "a\nb\\r\n\\xff\\x00"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0851, "85 ms"),
        (4.21, "4.2 s"),
        (-4.21, "-4.2 s"),
        (720, "12 min"),
        (10_800, "3 h"),
        (86_400 * 3, "3 d"),
    ],
)
def test_a_span_is_formatted_in_the_unit_that_fits(seconds, words):
    assert human_duration(timedelta(seconds=seconds)) == words


def test_a_time_is_iso_8601_in_utc_for_programs():
    assert iso(datetime(2026, 5, 4, 12, tzinfo=UTC)) == "2026-05-04T12:00:00Z"
    assert iso(None) is None


def test_a_time_of_today_has_no_date_for_people():
    now = datetime.now(UTC)

    assert local(now) == now.astimezone().strftime("%H:%M:%S")
    assert local(now - timedelta(days=400)).startswith(str((now - timedelta(days=400)).astimezone().date()))


def test_json_is_one_line_of_ascii(capsys):
    json_line({"text": "Zürich\n\x1b"})

    line = capsys.readouterr().out
    assert line == '{"text": "Z\\u00fcrich\\n\\u001b"}\n'
    assert json.loads(line) == {"text": "Zürich\n\x1b"}


def test_a_piped_table_breaks_and_cuts_no_line(capsys):
    table(("one", "two"), [("x" * 300, "y" * 300), ("[bold]a[/bold]", None)])

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "x" * 300 in lines[1]
    assert "y" * 300 in lines[1]
    assert lines[2].startswith("[bold]a[/bold]")
