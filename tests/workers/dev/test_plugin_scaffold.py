"""A new plugin is complete: it is loaded, its test passes, and a type checker finds nothing in it."""

import ast
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from ingest.errors import SettingsError
from ingest.events import WIRE_NAMES, decode
from ingest.wire.envelope import Kind
from workers.dev.plugin_scaffold import PLUGIN_NAME, USED_NAMES, with_module, write_plugin

NUMBERS = count()


def new_name():
    return f"scaffolded_{next(NUMBERS)}"


def checked(folder, *command):
    ran = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    ("wire_names", "has_table"),
    [
        (("SESSION_COMPLETE",), True),
        (("SESSION_STARTED", "SESSION_FEE_INCURRING"), False),
        (("SESSION_PAUSED", *WIRE_NAMES), True),
    ],
)
def test_the_test_of_a_new_plugin_passes_and_fails_without_its_push(tmp_path, wire_names, has_table):
    name = new_name()
    plugin, test, *_ = write_plugin(name, wire_names, tmp_path, has_table=has_table)
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", test.name)
    assert "1 passed" in checked(tmp_path, *command)
    plugin.write_text(plugin.read_text().replace("    ctx.push(", "    print("))
    with pytest.raises(AssertionError, match="1 failed"):
        checked(tmp_path, *command)


def test_a_type_checker_finds_nothing_in_new_plugins_outside_the_clone(tmp_path):
    write_plugin("one_event", ["SESSION_COMPLETE"], tmp_path, has_table=True)
    write_plugin("some_events", ["SESSION_PAUSED", "SESSION_STARTED", "SESSION_FEE_INCURRING"], tmp_path)
    write_plugin("many_events", ["SESSION_PAUSED", *WIRE_NAMES], tmp_path)
    files = sorted(path.name for path in tmp_path.glob("*.py"))
    command = ("-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *files)
    checked(tmp_path, *command, "one_event_migrations/v0001_first_table.py")
    few = [file for file in files if "many" not in file]  # who handles many events may have longer lines
    ruff = ("--isolated", "--line-length", "120", *few, "one_event_migrations")
    checked(tmp_path, "-m", "ruff", "check", "--select", "E,F,I,W", *ruff)
    checked(tmp_path, "-m", "ruff", "format", "--check", *ruff)
    for wrong in mistaken(tmp_path):
        with pytest.raises(AssertionError, match=f"{wrong}.* incompatible type"):
            checked(tmp_path, *command)


@pytest.mark.slow
def test_pyright_finds_nothing_in_new_plugins_either(tmp_path):
    if subprocess.run([sys.executable, "-m", "pyright", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("pyright is not installed, or cannot get its JavaScript from the npm registry")
    write_plugin("one_event", ["SESSION_COMPLETE"], tmp_path, has_table=True)
    write_plugin("some_events", ["SESSION_PAUSED", "SESSION_STARTED", "SESSION_FEE_INCURRING"], tmp_path)
    command = ("-m", "pyright", "--pythonpath", sys.executable, *(path.name for path in tmp_path.glob("*.py")))
    checked(tmp_path, *command)
    for wrong in mistaken(tmp_path):
        with pytest.raises(AssertionError, match=rf"{wrong}:[^`]*reportArgumentType"):
            checked(tmp_path, *command)


def mistaken(folder):
    """Give the handler of each plugin another event than its mark, one after the other; yield the file's name."""
    for name, event, imported in (
        ("one_event.py", "SessionComplete", "SessionComplete"),
        ("some_events.py", "SessionPaused | SessionStarted | SessionFeeIncurring", "SessionEvent"),
    ):
        plugin = folder / name
        right = plugin.read_text()
        text = right.replace(f"event: {event},", "event: SessionStopped,")
        assert text != right
        plugin.write_text(text.replace(f"import {imported}", f"import SessionStopped, {imported}"))
        yield name
        plugin.write_text(right)


def test_a_sample_is_decoded_as_its_event(tmp_path):
    files = write_plugin(new_name(), ["SESSION_COMPLETE"], tmp_path)
    (sample,) = (path for path in files if path.suffix == ".json")
    assert type(decode(Kind.EVENTS, sample.read_bytes())) is WIRE_NAMES["SESSION_COMPLETE"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "HANDLER_MODULES=thanks\n"),
        ("PUSH=log", "PUSH=log\nHANDLER_MODULES=thanks\n"),
        ("HANDLER_MODULES=\nPUSH=log\n", "HANDLER_MODULES=thanks\nPUSH=log\n"),
        ("HANDLER_MODULES=a, 'b'\n".replace("'", ""), "HANDLER_MODULES=a,b,thanks\n"),
        ('HANDLER_MODULES="a,b"\n', "HANDLER_MODULES=a,b,thanks\n"),
        ("HANDLER_MODULES=thanks\n", "HANDLER_MODULES=thanks\n"),
        ("#HANDLER_MODULES=a\n", "#HANDLER_MODULES=a\nHANDLER_MODULES=thanks\n"),
    ],
)
def test_a_plugin_is_added_to_those_in_the_env_file(before, after):
    assert with_module(before, "thanks") == after


def test_a_plugin_cannot_have_a_name_that_its_files_give_to_something_else(tmp_path):
    write_plugin("thanks", ["SESSION_COMPLETE", "SESSION_PAUSED"], tmp_path, has_table=True)
    names = set()
    for file in ("thanks.py", "test_thanks.py"):
        for node in ast.walk(ast.parse((tmp_path / file).read_text())):
            if isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.alias | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    refused = {each for each in names if PLUGIN_NAME.fullmatch(each) and not each.startswith(("test_", "thanks"))}
    assert refused - USED_NAMES == {"datetime"}, "which is a module"


@pytest.mark.parametrize(
    ("name", "events", "sentence"),
    [
        ("json", ["SESSION_COMPLETE"], "There is a module json already: choose another name."),
        ("class", ["SESSION_COMPLETE"], "'class' cannot name a plugin"),
        ("Two words", ["SESSION_COMPLETE"], "'Two words' cannot name a plugin"),
        ("long_" * 7, ["SESSION_COMPLETE"], "too long for a plugin with a table: use at most 30"),
        ("ctx", ["SESSION_COMPLETE"], "'ctx' cannot name a plugin"),
        ("session", ["SESSION_COMPLETE"], "'session' cannot name a plugin"),
        ("test_thanks", ["SESSION_COMPLETE"], "'test_thanks' cannot name a plugin"),
        ("conftest", ["SESSION_COMPLETE"], "'conftest' cannot name a plugin"),
        ("fresh_name", ["SESSION_COMPLETE", "CDR"], "CDR is no session event: write a handler of ChargingRecord"),
        ("fresh_name", ["session started"], "session started is no name of a session event"),
        ("fresh_name", [], "Nothing is no name of a session event"),
        ("taken_name", ["SESSION_COMPLETE"], "taken_name.py exists already."),
    ],
)
def test_what_cannot_be_a_plugin_is_refused_and_nothing_is_written(tmp_path, name, events, sentence):
    (tmp_path / "taken_name.py").touch()
    with pytest.raises(SettingsError, match=sentence):
        write_plugin(name, events, tmp_path, has_table=True)
    assert [path.name for path in tmp_path.iterdir()] == ["taken_name.py"]


def test_a_plugin_is_loaded_and_tested_beside_folders_with_the_names_of_our_packages(tmp_path):
    for package in ("handlers", "ingest", "workers"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('of the team')")
    write_plugin("beside_theirs", ["SESSION_COMPLETE"], tmp_path)
    scripts = Path(sys.executable).parent
    assert '"handler": "beside_theirs"' in checked(tmp_path, str(scripts / "webhooks"), "handlers", "--json")
    command = (str(scripts / "pytest"), "-q", "-p", "no:cacheprovider", "--import-mode=append", "test_beside_theirs.py")
    assert "1 passed" in checked(tmp_path, *command)
