"""The commands of this folder do what they are told, and say so when they cannot."""

import sys

import pytest

from tests.faults import fuzz, report
from tests.faults.inputs import Findings, Row


@pytest.fixture
def asked(monkeypatch):
    """Run a command as a shell would, without a fault and without an input."""
    monkeypatch.setattr(report, "MODULES", ())
    monkeypatch.setattr(report.inputs, "examine", lambda: Findings(p99=0.1))

    def run(command, *arguments):
        monkeypatch.setattr(sys, "argv", [command.__name__, *arguments])
        return command.main()

    return run


def test_one_command_prints_both_tables(asked, capsys):
    assert asked(report) == 0
    said = capsys.readouterr().out
    assert report.HEAD in said
    assert "| input | how many | answer |" in said


def test_an_input_that_was_answered_wrongly_is_named_and_no_success(asked, capsys, monkeypatch):
    found = Findings([Row("head", "500", 1, ("a NUL",), ("a NUL: 400 was promised",))])
    monkeypatch.setattr(report.inputs, "examine", lambda: found)
    assert asked(report) == 1
    assert "a NUL: 400 was promised" in capsys.readouterr().err


@pytest.mark.parametrize("command", [report, fuzz])
def test_a_misspelt_name_is_no_success(asked, capsys, command):
    assert asked(command, "--only", "no such thing") == 2
    assert "'no such thing'" in capsys.readouterr().err
