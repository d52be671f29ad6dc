"""The commands of this folder, without a fault and without bad input."""

import sys

import pytest

from tests.faults import fuzz, report
from tests.faults.bad_input import Findings, Row


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs a command with these arguments."""
    monkeypatch.setattr(report, "MODULES", ())
    monkeypatch.setattr(report.bad_input, "examine", lambda: Findings(p99=0.1))

    def run_command(command, *arguments):
        monkeypatch.setattr(sys, "argv", [command.__name__, *arguments])
        return command.main()

    return run_command


def test_one_command_prints_both_tables(run, capsys):
    assert run(report) == 0
    output = capsys.readouterr().out
    assert report.HEAD in output
    assert "| input | how many | answer |" in output


def test_an_input_with_a_wrong_response_is_named_and_fails_the_command(run, capsys, monkeypatch):
    found = Findings([Row("head", "500", 1, ("a NUL",), ("a NUL: 400 was expected",))])
    monkeypatch.setattr(report.bad_input, "examine", lambda: found)
    assert run(report) == 1
    assert "a NUL: 400 was expected" in capsys.readouterr().err


@pytest.mark.parametrize("command", [report, fuzz])
def test_a_misspelt_name_is_an_error(run, capsys, command):
    assert run(command, "--only", "no such thing") == 2
    assert "'no such thing'" in capsys.readouterr().err
