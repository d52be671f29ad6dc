import json

from workers.commands.output import json_line, table


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
