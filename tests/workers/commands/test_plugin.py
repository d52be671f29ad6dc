"""`webhooks plugin`: a plugin is written, tried on what came without a trace, and tested with samples."""

import json
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from sqlalchemy import inspect, select, text

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


@pytest.mark.parametrize("wrong", ["no_such_plugin", "no_such_plugin.py", "no such/plugin"])
def test_a_plugin_that_is_not_there_is_one_sentence(node, wrong):
    result = node.run("plugin", "try", wrong, "--since", "1d", code=2)
    missing = wrong.removesuffix(".py")
    assert result.stderr == (
        f"webhooks: There is no plugin {missing}: it is neither installed nor a file in {node.folder}.\n"
    )


def test_a_plugin_may_be_called_by_its_file(node, name):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE")
    (row,) = node.rows("plugin", "try", f"{name}.py", "--event", "events/SESSION_COMPLETE.json")
    assert row["handler"] == name


def test_a_folder_of_samples_that_is_not_there_passes_no_test(node):
    node.run("plugin", "test")
    for wrong in (("--samples", "evnets"), ("--record",)):
        assert "There is no folder ev" in node.run("plugin", "test", *wrong, code=2).stderr


def test_a_new_plugin_cannot_be_called_as_a_handler_that_there_is(node, name):
    result = node.run("plugin", "new", "warn_the_driver", "--on", "SESSION_COMPLETE", code=2)
    assert "There is a handler warn_the_driver already: choose another name." in result.stderr
    broken(node, name, "raise")
    (node.folder / ".env").write_text(f"HANDLER_MODULES={name}_is_gone\n")
    node.run("plugin", "new", name + "_b", "--on", "SESSION_COMPLETE")


def test_a_new_plugin_that_the_environment_keeps_from_being_loaded_is_said_to_be(node, name):
    arguments = ("plugin", "new", name, "--on", "SESSION_COMPLETE")
    assert f"goes before .env: add {name} there." in node.run(*arguments, HANDLER_MODULES="").stdout


def test_an_event_that_this_version_does_not_know_is_said_to_be_new(node, name):
    result = node.run("plugin", "new", name, "--on", "SESSION_STARTED,SESSION_STARTD")
    assert f"This version knows no event SESSION_STARTD: {name}.py has a class for it." in result.stdout
    assert "no event SESSION_STARTED" not in result.stdout


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


def test_a_timeline_knows_the_events_of_plugins_and_does_without_those_that_are_broken(node, name, event):
    node.run("plugin", "new", name, "--on", "SESSION_PAUSED")
    plugin = node.folder / f"{name}.py"
    plugin.write_text(
        plugin.read_text().replace('@event("SESSION_PAUSED")', '@event("SESSION_PAUSED", status="PAUSED")')
    )
    node.settle(event("SESSION_PAUSED", "paused", userId="ada"), ("session_record", Outcome.DONE))
    (session,) = node.rows("session", "paused")
    (entry,) = session["timeline"]
    assert {field: change["after"] for field, change in entry["changed"].items()} == {
        "status": "PAUSED",
        "user_id": "ada",
    }
    use_models({})
    (node.folder / ".env").write_text(f"HANDLER_MODULES={name}_is_gone\n")
    (session,) = node.rows("session", "paused")
    assert [entry["changed"] for entry in session["timeline"]] == [{}]


def test_what_was_recorded_of_a_sample_is_compared_until_it_is_recorded_anew(node, name):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE", "--table")
    recorded = node.folder / "events" / "recorded" / "SESSION_COMPLETE.json"
    (row,) = [row for row in node.rows("plugin", "test", "--record") if row["outcome"] == "recorded"]
    assert row["reason"] == "events/recorded/SESSION_COMPLETE.json"
    (made,) = json.loads(recorded.read_text()).values()
    assert (made["outcome"], made["pushes"][0]["user_id"], len(made["writes"])) == ("done", "driver", 1)
    node.run("plugin", "test")
    recorded.write_text(recorded.read_text().replace("Your session S:", "The session S:"))
    result = node.run("plugin", "test", code=1)
    assert "events/SESSION_COMPLETE.json is not as it was recorded:" in result.stdout
    assert '-        "body": "The session S: SESSION_COMPLETE.",' in result.stdout
    assert '+        "body": "Your session S: SESSION_COMPLETE.",' in result.stdout
    (failed,) = [row for row in node.rows("plugin", "test", code=1) if row["failed"]]
    assert failed["outcome"] == "not as recorded"
    node.run("plugin", "test", "--record")
    node.run("plugin", "test")
    recorded.write_text("no JSON")
    assert "write it again by `webhooks plugin test --record`" in node.run("plugin", "test", code=2).stderr


def test_a_sample_that_cannot_be_read_fails_the_test(node):
    (node.folder / "events").mkdir()
    (node.folder / "events" / "broken.json").write_text(json.dumps({"event": "SESSION_STARTED", "payload": {}}))
    failed = [row for row in node.rows("plugin", "test", code=1) if row["failed"]]
    assert [(row["sample"], row["outcome"]) for row in failed] == [("events/broken.json", "unreadable")]


def _title(name):
    return name.replace("_", " ").capitalize()


def test_the_table_of_a_plugin_is_migrated_once_and_checked(any_node, name):
    any_node.run("plugin", "new", name, "--on", "SESSION_COMPLETE", "--table")
    pending = f"does not have the tables of the plugin {name}: run `webhooks migrate`."
    assert pending in any_node.run("check", code=1).output
    assert f"The database now has the tables of the plugin {name}." in any_node.run("migrate").stdout
    assert f"The database has the tables of the plugin {name}." in any_node.run("migrate").stdout
    assert f"The database has the tables of the plugin {name}." in any_node.run("check", code=1).output
    with any_node.engine.connect() as conn:
        assert not conn.execute(text(f"SELECT * FROM plugin_{name}_told")).all()


def test_work_and_what_deletes_refuse_to_begin_without_the_table_of_a_plugin(node, name, valkey_url):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE", "--table")
    sentence = f"The database does not have the tables of the plugin {name}: run `webhooks migrate`."
    for command in (("retain",), ("erase", "--user", "ada")):
        assert sentence in node.run(*command, code=2).stderr
    for process in ("work", "clock"):
        ran = node.process(process, REDIS_URL=valkey_url)
        assert (ran.returncode, ran.stderr.decode().splitlines()[-1]) == (2, f"webhooks: {sentence}")


def test_a_migration_that_fails_is_one_sentence_and_keeps_nobody_elses_back(node, name):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE", "--table")
    node.run("plugin", "new", f"{name}_b", "--on", "SESSION_COMPLETE", "--table")
    migration = node.folder / f"{name}_migrations" / "v0001_first_table.py"
    migration.write_text(migration.read_text() + "    op.execute('DELETE FROM no_such_table')\n")
    result = node.run("migrate", code=1)
    assert (
        f"webhooks: A migration of the plugin {name} fails: OperationalError: no such table: no_such" in result.stderr
    )
    assert f"The database now has the tables of the plugin {name}_b." in result.stdout
    with node.engine.connect() as conn:
        found = inspect(conn).get_table_names()
    assert [each for each in found if each.startswith(f"plugin_{name}")] == [
        f"plugin_{name}_b_schema_version",
        f"plugin_{name}_b_told",
    ]


def test_a_table_that_differs_from_its_migrations_fails_the_test(node, name):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE", "--table")
    plugin = node.folder / f"{name}.py"
    plugin.write_text(plugin.read_text().replace("    Index(", '    Column("price", UtcDateTime),\n    Index('))
    failed = [row for row in node.rows("plugin", "test", code=1) if row["failed"]]
    assert failed[0]["sample"].endswith(f"{name}_migrations")
    assert failed[0]["reason"] == f"add_column: plugin_{name}_told price"


def test_a_driver_is_erased_from_the_table_of_a_plugin_and_others_tables_are_named(any_node, name, event):
    any_node.run("plugin", "new", name, "--on", "SESSION_COMPLETE", "--table")
    any_node.run("migrate")
    any_node.settle(event("SESSION_COMPLETE", "s-1", userId="Ada@example.com"), ("session_record", Outcome.DONE))
    rows = [("s-1", "someone"), ("s-2", "ada@EXAMPLE.com"), ("s-3", "bob")]
    with any_node.engine.begin() as conn:
        conn.execute(text("CREATE TABLE plugin_gone_told (id TEXT PRIMARY KEY)"))
        for session, user in rows:
            insert = f"INSERT INTO plugin_{name}_told VALUES (:session, :user, '2026-01-01 00:00:00.000000')"
            conn.execute(text(insert), {"session": session, "user": user})
    (found,) = any_node.rows("erase", "--user", "Ada@example.com", "--dry-run")
    assert found[f"plugin_{name}_told"] == 2
    result = any_node.run("erase", "--user", "Ada@example.com", "--json")
    assert "Not erased are tables of plugins that are not loaded: plugin_gone_told." in result.stderr
    certificate = json.loads(result.stdout)
    assert certificate["ledger"][f"plugin_{name}_told"] == 2
    assert certificate["not_erased"] == "plugin_gone_told"
    with any_node.engine.connect() as conn:
        assert conn.execute(text(f"SELECT session_id FROM plugin_{name}_told")).scalars().all() == ["s-3"]


def test_who_is_in_the_table_of_a_plugin_alone_is_erased_again_by_a_certificate(any_node, name, event):
    any_node.run("plugin", "new", name, "--on", "SESSION_COMPLETE", "--table")
    any_node.run("migrate")
    any_node.settle(event("SESSION_COMPLETE", "s-1", userId="ada"), ("session_record", Outcome.DONE))
    certificates = any_node.folder / "certificates"
    lines = [any_node.run("erase", *who, "--json").stdout for who in (("--user", "ada"), ("--session", "s-1"))]
    certificates.write_text("".join(lines))
    with any_node.engine.begin() as conn:
        for session, user in (("s-1", "bob"), ("s-2", "ADA"), ("s-3", "bob")):
            insert = f"INSERT INTO plugin_{name}_told VALUES (:session, :user, '2026-01-01 00:00:00.000000')"
            conn.execute(text(insert), {"session": session, "user": user})

    any_node.run("erase", "--again", str(certificates))

    with any_node.engine.connect() as conn:
        assert conn.execute(text(f"SELECT session_id FROM plugin_{name}_told")).scalars().all() == ["s-3"]


def test_a_driver_is_erased_from_the_table_of_a_plugin_in_a_backup(node, name, event):
    node.run("plugin", "new", name, "--on", "SESSION_COMPLETE", "--table")
    node.run("migrate")
    node.settle(event("SESSION_COMPLETE", "s-1", userId="ada"), ("session_record", Outcome.DONE))
    with node.engine.begin() as conn:
        conn.execute(text("CREATE TABLE plugin_gone_told (id TEXT PRIMARY KEY)"))
        for session, user in (("s-1", "bob"), ("s-2", "ADA"), ("s-3", "bob")):
            insert = f"INSERT INTO plugin_{name}_told VALUES (:session, :user, '2026-01-01 00:00:00.000000')"
            conn.execute(text(insert), {"session": session, "user": user})
    node.run("backup", "--to", "copy")

    (certificate,) = node.rows("erase", "--user", "ada", "--backup", "copy")

    rows = certificate["backups"]["copy"]
    assert (rows[f"plugin_{name}_told"], rows["not_searched"]) == (2, ["plugin_gone_told"])
    with closing(sqlite3.connect(node.folder / "copy" / "ledger.db")) as copy:
        assert copy.execute(f"SELECT session_id FROM plugin_{name}_told").fetchall() == [("s-3",)]


def test_rows_of_the_table_of_a_plugin_go_when_they_are_as_old_as_it_says(any_node, name):
    any_node.run("plugin", "new", name, "--on", "SESSION_COMPLETE", "--table")
    any_node.run("migrate")
    now = datetime.now(UTC)
    with any_node.engine.begin() as conn:
        for session, days in (("old", 91), ("older", 300), ("new", 89)):
            insert = f"INSERT INTO plugin_{name}_told VALUES (:session, 'ada', :at)"
            at = (now - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S.%f")
            conn.execute(text(insert), {"session": session, "at": at})
    planned = {row["kind"]: (row["setting"], row["rows"]) for row in any_node.rows("retain", "--dry-run")}
    assert planned[f"plugin_{name}_told"] == ("keep_for= of its plugin", 2)
    assert any_node.rows("retain") == [{f"plugin_{name}_told": 2}]
    with any_node.engine.connect() as conn:
        assert conn.execute(text(f"SELECT session_id FROM plugin_{name}_told")).scalars().all() == ["new"]
