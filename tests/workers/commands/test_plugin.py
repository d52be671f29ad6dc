"""`webhooks plugin`: a plugin is written, tried on what came without a trace, and tested with samples."""

import json
import sys
from itertools import count

import pytest
from sqlalchemy import select

from handlers.kit.context import Push
from ingest.events import use_models
from workers.ledger import pushes
from workers.ledger.pushes import NewPush
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import pushes as pushes_table
from workers.ledger.tables.core_tables import runs as runs_table

NUMBERS = count()
BROKEN = """
from handlers import on
from ingest.events import SessionComplete
from sqlalchemy import text

@on(SessionComplete)
def {name}(event, ctx):
    {line}
"""


@pytest.fixture
def name(monkeypatch):
    """The name of a plugin that no other test has imported."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield f"tried_{next(NUMBERS)}"
    use_models({})


def stored(node):
    with node.engine.connect() as conn:
        return [conn.execute(select(table)).all() for table in (runs_table, pushes_table)]


def broken(node, name, line):
    (node.folder / f"{name}.py").write_text(BROKEN.format(name=name, line=line))


def test_a_new_plugin_is_loaded_and_the_next_command_is_named(node, name):
    result = node.run("plugin", "new", name, "--on", "SESSION_COMPLETE, SESSION_STOPPED")
    assert (
        f"{name}.py\ntest_{name}.py\nevents/SESSION_COMPLETE.json\nevents/SESSION_STOPPED.json\n.env" in result.stdout
    )
    assert "webhooks send SESSION_COMPLETE" in result.stdout
    (row,) = (row for row in node.rows("handlers") if row.get("handler") == name)
    assert row["events"] == ["SESSION_COMPLETE", "SESSION_STOPPED"]


def test_a_plugin_that_exists_is_wrong_usage(node, name):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE")
    assert f"{name}.py exists already." in node.run("plugin", "new", name, "--on", "SESSION_COMPLETE", code=2).stderr


def test_settings_of_a_plugin_are_read_from_the_env_file(node, name):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE")
    with (node.folder / ".env").open("a") as file:
        file.write(f"{name.upper()}_TITLE='A $ title'\n")
    (row,) = node.rows("plugin", "try", name, "--event", "events/SESSION_COMPLETE.json")
    assert row["pushes"][0]["title"] == "A $ title"


def test_a_plugin_is_tried_on_an_event_and_nothing_is_committed(node, name):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE")
    before = stored(node)
    shown = node.run("plugin", "try", name, "--event", "events/SESSION_COMPLETE.json").stdout
    assert f"SESSION_COMPLETE  {name}  done\n    push   driver  {name.replace('_', ' ').capitalize()} | Your" in shown
    (row,) = node.rows("plugin", "try", name, "--event", "events/SESSION_COMPLETE.json")
    assert (row["delivery"], row["outcome"], row["before"], row["diff"]) == (None, "done", None, [])
    assert (row["pushes"][0]["user_id"], row["pushes"][0]["session_id"]) == ("driver", "S")
    assert stored(node) == before == [[], []]


def test_a_plugin_that_is_not_named_in_the_settings_can_be_tried(node, name):
    broken(node, name, "ctx.write(text('DELETE FROM runs WHERE handler = :h'), {'h': 'x'})")
    node.run("plugin", "new", f"{name}_sample", "--on", "SESSION_COMPLETE")
    (row,) = node.rows("plugin", "try", name, "--event", "events/SESSION_COMPLETE.json")
    assert row["writes"] == ["DELETE FROM runs WHERE handler = :h  {'h': 'x'}"]


def test_what_it_would_do_is_compared_with_what_it_did(node, name, event, noon):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE")
    new = node.settle(event("SESSION_COMPLETE", "new", userId="ada"))
    moot = node.settle(event("SESSION_COMPLETE", "moot", userId="ada"), (name, Outcome.MOOT))
    done = node.settle(event("SESSION_COMPLETE", "done", userId="ada"), (name, Outcome.DONE))
    with node.engine.begin() as conn:
        for key, title in ((f"{name}:done", "Old"), (f"{name}:gone", "Gone")):
            push = Push("ada", title, "Your session done: SESSION_COMPLETE.", key, session_id="done")
            pushes.insert(conn, [NewPush(done, name, "log", push, noon)])
    before = stored(node)
    rows = {row["delivery"]: row for row in node.rows("plugin", "try", name, "--since", "2026-01-01")}
    assert rows[new]["diff"] == ["it is new: it did not run then", f"+ push {name}:new: {_title(name)}"]
    assert rows[moot]["diff"] == ["outcome: moot → done", f"+ push {name}:moot: {_title(name)}"]
    assert rows[done]["diff"] == [f"~ push {name}:done: title Old → {_title(name)}", f"- push {name}:gone: Gone"]
    (one,) = node.rows("plugin", "try", name, "--delivery", done[:12])
    assert one == rows[done]
    assert stored(node) == before


def test_a_handler_that_fails_is_shown_with_its_traceback_and_the_exit_code_is_one(node, name, event):
    broken(node, name, "raise ValueError('a price')")
    delivery = node.settle(event("SESSION_COMPLETE", userId="ada"))
    shown = node.run("plugin", "try", name, "--delivery", delivery, code=1).stdout
    assert f"{name}.py" in shown
    assert "ValueError" in shown
    (row,) = node.rows("plugin", "try", name, "--delivery", delivery, code=1)
    assert (row["outcome"], row["error"]) == ("again", "ValueError: a price")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Choose one of --delivery, --event and --since."),
        (("--delivery", "nothing"), "no delivery, or more than one"),
        (("--since", "1d", "--delivery", "nothing"), "Choose one of"),
    ],
)
def test_a_try_needs_something_to_try(node, arguments, sentence):
    code = 1 if arguments[:1] == ("--delivery",) else 2
    assert sentence in node.run("plugin", "try", "warn_the_driver", *arguments, code=code).stderr


def test_a_plugin_that_is_not_there_is_one_sentence(node):
    result = node.run("plugin", "try", "no_such_plugin", "--since", "1d", code=2)
    assert "HANDLER_MODULES names no_such_plugin, which is neither installed nor a file in" in result.stderr


def test_samples_are_replayed_against_all_plugins(node, name):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE,SESSION_PAUSED")
    rows = node.rows("plugin", "test")
    assert {(row["sample"], row["handler"], row["outcome"]) for row in rows} >= {
        ("events/SESSION_PAUSED.json", name, "done"),
        ("SESSION_PAUSED", name, "done"),
        ("SESSION_FEE_INCURRING", "warn_the_driver", "done"),
        ("CDR", "cdr_record", "done"),
        ("SOMETHING_NEW", None, "ignored"),
    }
    assert not [row for row in rows if row["failed"]]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("raise KeyError('price')", "KeyError: 'price'"),
        ("ctx.write(text('INSERT INTO no_such_table VALUES (1)'))", "OperationalError: no such table: no_such_table"),
        ("ctx.read(text('SELECT no_such FROM runs'))", "no such column: no_such"),
    ],
)
def test_a_plugin_that_fails_on_a_sample_fails_the_test(node, name, line, problem):
    broken(node, name, line)
    rows = node.rows("plugin", "test", code=1, HANDLER_MODULES=name)
    failed = [row for row in rows if row["failed"]]
    assert {(row["sample"], row["handler"]) for row in failed} == {
        ("SESSION_COMPLETE", name),
        ("SESSION_COMPLETED", name),
    }
    assert problem in failed[0]["reason"]


def test_a_sample_that_cannot_be_read_fails_the_test(node):
    (node.folder / "events").mkdir()
    (node.folder / "events" / "broken.json").write_text(json.dumps({"event": "SESSION_STARTED", "payload": {}}))
    failed = [row for row in node.rows("plugin", "test", code=1) if row["failed"]]
    assert [(row["sample"], row["outcome"]) for row in failed] == [("events/broken.json", "unreadable")]


def _title(name):
    return name.replace("_", " ").capitalize()
