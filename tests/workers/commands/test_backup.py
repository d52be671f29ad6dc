import errno
import fcntl
import json
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime
from types import SimpleNamespace

import pytest

from ingest.config.settings import load_settings
from ingest.inbox.corruption import LOCK_NAME
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.queue.installations import Installation, announce, list_installations, withdraw
from ingest.queue.process_registry import ProcessType
from workers.backup import write_backup
from workers.installation import own_installation
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.states import Outcome

DONE = ("session_record", Outcome.DONE)


def backup(node, name="copy", **environment):
    (made,) = node.rows("backup", "--to", name, **environment)
    return made


def elsewhere(node, name="new"):
    """The settings of a new machine."""
    folder = node.folder / name
    return {"DATA_DIR": str(folder), "DATABASE_URL": f"sqlite:///{folder / 'ledger.db'}"}


def restore(node, *arguments, code=0, **environment):
    return node.run("restore", "--from", "copy", *arguments, code=code, **{**elsewhere(node), **environment})


def settle_in_inbox(node, id_):
    with closing(open_inbox_file(node.folder / FILE_NAME)) as file:
        file.execute("INSERT OR IGNORE INTO seen VALUES (?, 1, unixepoch())", (id_,))
        file.execute("DELETE FROM deliveries WHERE id = ?", (id_,))


def test_a_backup_is_restored_on_a_new_machine(node, event):
    settled = node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    waiting = node.keep(event("SESSION_STOPPED", userId="driver-7"))

    made = backup(node)
    output = restore(node).stdout

    assert made["rows"]["ledger.db"]["deliveries"] == made["rows"]["inbox.db"]["deliveries"] == 1
    assert made["schema"].isdecimal()
    assert "The ledger is consistent." in output
    assert "webhooks check --deep" in output
    found = {row["id"]: row["state"] for row in node.rows("deliveries", **elsewhere(node))}
    assert found == {settled: "settled", waiting: "kept"}
    (entry, *_) = node.rows("audit", **elsewhere(node))
    assert entry["act"] == "restored"
    assert node.rows("audit")[0]["act"] == "backed_up"


def test_who_restores_into_the_folder_of_another_user_is_told_to_give_them_the_files(node, event, monkeypatch):
    node.settle(event("SESSION_STARTED"), DONE)
    backup(node)
    assert "chown" not in restore(node).stdout
    monkeypatch.setattr("workers.commands.backup.owner_of", lambda path: int(path.is_dir()))

    output = restore(node, **elsewhere(node, "another")).stdout

    assert f"chown -R --reference={node.folder / 'another'} {node.folder / 'another'}" in output


def test_what_is_settled_between_the_two_copies_is_in_one_of_them(node, event, monkeypatch):
    body = event("SESSION_STARTED", userId="driver-7")
    id_ = node.keep(body)
    copy = write_backup.copy_database

    def copy_and_settle(source, target):
        copy(source, target)
        if not node.rows("deliveries", "--state", "settled"):
            node.settle(body, DONE)
            settle_in_inbox(node, id_)

    monkeypatch.setattr(write_backup, "copy_database", copy_and_settle)

    backup(node)
    restore(node)

    assert [row["id"] for row in node.rows("deliveries", **elsewhere(node))] == [id_]


def test_a_backup_does_not_wait_for_one_who_writes(node, event, monkeypatch):
    node.keep(event("SESSION_STARTED"))
    monkeypatch.setattr(write_backup, "row_counts", lambda _copy: pytest.fail("not reached"))
    with closing(open_inbox_file(node.folder / FILE_NAME)) as file:
        file.execute("BEGIN IMMEDIATE")
        file.execute("DELETE FROM deliveries")
        with pytest.raises(pytest.fail.Exception):
            node.run("backup", "--to", "copy", code=1)
        file.execute("COMMIT")


def test_nothing_that_was_deleted_is_in_the_free_space_of_a_backup(node, event):
    for number in range(50):
        node.settle(event("SESSION_STARTED", f"session-{number}", userId="driver-7", note="x" * 500), DONE)
    node.run("erase", "--user", "driver-7")
    assert b"driver-7" in (node.folder / "ledger.db").read_bytes() + (node.folder / "ledger.db-wal").read_bytes()

    backup(node)

    assert b"driver-7" not in (node.folder / "copy" / "ledger.db").read_bytes()


def test_nobody_else_may_read_a_backup(node, event):
    node.keep(event("SESSION_STARTED"))

    backup(node)

    folder = node.folder / "copy"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_nothing_is_overwritten(node, event):
    node.keep(event("SESSION_STARTED"))
    backup(node)

    assert "exists" in node.run("backup", "--to", "copy", code=1).stderr
    before = (node.folder / "ledger.db").read_bytes()
    assert "is not overwritten" in node.run("restore", "--from", "copy", code=1).stderr
    assert (node.folder / "ledger.db").read_bytes() == before
    restore(node)
    assert "is not overwritten" in restore(node, code=1).stderr
    # A log without its file is somebody's last events.
    shutil.rmtree(node.folder / "new")
    (node.folder / "new").mkdir()
    (node.folder / "new" / "inbox.db-wal").touch()
    assert "inbox.db-wal exists" in restore(node, code=1).stderr


def test_a_backup_that_was_changed_or_cut_is_refused_before_anything_is_written(node, event):
    node.keep(event("SESSION_STARTED"))
    backup(node)
    folder = node.folder / "copy"
    manifest, ledger = (folder / "manifest.json").read_text(), (folder / "ledger.db").read_bytes()

    for name, content, said in (
        ("ledger.db", ledger[:-1] + b"x", "ledger.db is not as it was written"),
        ("ledger.db", ledger[:-4096], "ledger.db is not as it was written"),
        ("manifest.json", manifest.replace('"backup": 1', '"backup": 2').encode(), "newer version"),
        ("manifest.json", manifest.replace('"ledger.db": {', '"../x": {', 1).encode(), "outside of its folder"),
        ("manifest.json", b"[]", "no manifest"),
        ("manifest.json", b'{"backup": 1, "files": {}}', "damaged"),
    ):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        assert said in restore(node, code=1).stderr
        (folder / name).write_bytes(before)
    (folder / "ledger.db").unlink()
    assert "incomplete" in restore(node, code=1).stderr
    (folder / "manifest.json").unlink()
    assert "no backup" in restore(node, code=1).stderr
    assert not list((node.folder / "new").glob("*.db*"))


def test_a_restore_is_refused_while_serve_runs_there(node, event):
    node.keep(event("SESSION_STARTED"))
    backup(node)
    (node.folder / "new").mkdir()
    with (node.folder / "new" / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)

        assert "stop it first" in restore(node, code=1).stderr


def test_a_restore_of_the_ledger_is_refused_while_a_worker_of_it_runs(node, event, valkey_url):
    node.keep(event("SESSION_STARTED"))
    backup(node)

    refused = restore(node, code=1, REDIS_URL=valkey_url).stderr

    assert "work on" in refused
    assert "clock on" in refused
    # An inbox alone: those of others may go on.
    restore(node, "--only", "inbox", REDIS_URL=valkey_url)


def test_an_inbox_is_not_restored_under_its_own_serve(node, event, valkey_url, report):
    node.keep(event("SESSION_STARTED"))
    made = backup(node)
    report(ProcessType.SERVE, id=made["inbox"])

    assert "serve on" in restore(node, "--only", "inbox", code=1, REDIS_URL=valkey_url).stderr


def test_an_older_ledger_beside_a_newer_inbox_says_what_it_lost_and_takes_it_again(node, event):
    node.keep(event("SESSION_STARTED"))
    made = backup(node)
    body = event("SESSION_STARTED", "later", userId="driver-7")
    lost = node.settle(body, DONE)
    node.keep(body)
    settle_in_inbox(node, lost)
    node.engine.dispose()
    for path in node.folder.glob("ledger.db*"):
        path.unlink()

    (done,) = node.rows("restore", "--from", "copy", "--only", "ledger")

    assert done["lost"] == [lost]
    assert "1 deliveries that were settled" in done["next"][1]
    with closing(sqlite3.connect(node.folder / FILE_NAME)) as file:
        assert file.execute("SELECT count(*) FROM seen WHERE id = ?", (lost,)).fetchone() == (0,)
        ((closed_at,),) = file.execute("SELECT closed_at FROM gaps").fetchall()
    assert abs(closed_at - datetime.fromisoformat(made["at"]).timestamp()) < 1


def test_a_ledger_on_postgresql_is_backed_up_by_its_own_tools_afterwards(any_node, event):
    if any_node.engine.dialect.name == "sqlite":
        pytest.skip("the ledger is in the backup")
    any_node.keep(event("SESSION_STARTED"))

    made = backup(any_node)

    assert list(made["files"]) == [FILE_NAME]
    assert (made["database"], made["schema"].isdecimal()) == ("postgresql", True)
    assert "pg_dump" in made["next"][1]
    assert any_node.engine.url.database in made["next"][1]
    new = {"DATA_DIR": str(any_node.folder / "new")}
    output = any_node.run("restore", "--from", "copy", **new).stdout
    assert "The ledger is consistent." in output
    other = any_node.run("restore", "--from", "copy", code=1, **elsewhere(any_node, "other"))
    assert "DATABASE_URL is on sqlite" in other.stderr


def test_the_ledger_of_another_installation_is_refused(any_node, event):
    if any_node.engine.dialect.name == "sqlite":
        pytest.skip("its file is restored")
    any_node.keep(event("SESSION_STARTED"))
    backup(any_node)
    path = any_node.folder / "copy" / "manifest.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "ledger": "another"}))

    new = {"DATA_DIR": str(any_node.folder / "new")}
    assert "the backup is of another" in any_node.run("restore", "--from", "copy", code=1, **new).stderr


def test_what_a_killed_backup_left_is_replaced(node, event):
    node.keep(event("SESSION_STARTED"))
    (node.folder / "copy.partial").mkdir()
    (node.folder / "copy.partial" / "inbox.db").write_bytes(b"half")

    backup(node)

    assert not (node.folder / "copy.partial").exists()


def test_a_backup_for_which_there_is_no_room_leaves_nothing(node, event, monkeypatch):
    node.keep(event("SESSION_STARTED"))
    monkeypatch.setattr(write_backup.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1))

    assert "1 bytes free" in node.run("backup", "--to", "copy", code=1).stderr
    assert not list(node.folder.glob("copy*"))


def test_a_damaged_inbox_is_not_backed_up(node, event):
    node.keep(event("SESSION_STARTED"))
    path = node.folder / FILE_NAME
    os.truncate(path, path.stat().st_size // 2)

    node.run("backup", "--to", "copy", code=1)

    assert not list(node.folder.glob("copy*"))


def test_files_that_were_set_aside_are_in_a_backup(node, event):
    node.keep(event("SESSION_STARTED"))
    (node.folder / "inbox.db.damaged-1").write_bytes(b"rows to recover")
    (node.folder / "inbox.db.suspect").write_text("inbox.db.damaged-1")

    backup(node)
    restore(node)

    assert (node.folder / "new" / "inbox.db.damaged-1").read_bytes() == b"rows to recover"
    assert (node.folder / "new" / "inbox.db.suspect").exists()


def test_without_anything_there_is_nothing_to_back_up(node):
    refused = node.run("backup", "--to", "copy", code=1, **elsewhere(node))

    assert "neither an inbox nor a ledger" in refused.stderr


def test_a_ledger_of_a_newer_version_is_not_restored(node, event):
    node.keep(event("SESSION_STARTED"))
    with closing(sqlite3.connect(node.folder / "ledger.db")) as file:
        file.execute("UPDATE webhooks_schema_version SET version_num = '9999'")
        file.execute("UPDATE ledger_identity SET compatible_from = '9999'")
        file.execute("ALTER TABLE deliveries RENAME COLUMN reason TO why")
        file.commit()
    backup(node)

    assert "install the newer version" in restore(node, code=1).stderr
    assert not list((node.folder / "new").glob("*.db*"))


def bytes_of(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).lower()


def test_a_backup_that_is_named_is_rewritten_without_the_driver(node, event):
    ours = node.settle(event("SESSION_STARTED", "zx81session", userId="Jane.Roe@example.com"), DONE)
    node.settle(event("SOMETHING_NEW", note="jane.roe@example.com"), ("*", Outcome.IGNORED))
    other = node.settle(event("SESSION_STARTED", "s-2", userId="driver-8"), DONE)
    node.keep(event("SESSION_STOPPED", "zx81session"))
    kept = node.keep(event("SESSION_STOPPED", "s-2"))
    backup(node)
    folder = node.folder / "copy"
    before = bytes_of(folder)
    assert b"jane.roe" in before

    found = node.rows("erase", "--user", "jane.roe@example.com", "--backup", str(folder), "--dry-run")
    assert found[0]["backups"][str(folder)]["deliveries"] == 2
    assert bytes_of(folder) == before
    (certificate,) = node.rows("erase", "--user", "jane.roe@example.com", "--backup", str(folder))

    rows = certificate["backups"][str(folder)]
    assert (rows["deliveries"], rows["inbox deliveries"], rows["not_searched"]) == (2, 1, [])
    assert b"jane.roe" not in bytes_of(folder)
    assert b"zx81session" not in bytes_of(folder)
    assert {path.name for path in node.folder.glob("copy*")} == {"copy"}
    output = restore(node).stdout
    assert "The ledger is consistent." in output
    assert {row["id"] for row in node.rows("deliveries", **elsewhere(node))} >= {ours, other, kept}
    assert node.rows("show", ours, **elsewhere(node))[0]["body_deletion"] == "erasure"


def test_certificates_reach_a_backup_and_dumps_are_named_as_not_searched(node, event):
    node.settle(event("SESSION_STARTED", "zx81session", userId="jane.roe@example.com"), DONE)
    backup(node)
    folder = node.folder / "copy"
    (folder / "ledger.dump").write_bytes(b"PGDMP")
    (node.folder / "certificates").write_text(node.run("erase", "--user", "jane.roe@example.com", "--json").stdout)

    (found,) = node.rows("erase", "--again", "certificates", "--backup", str(folder))

    assert found["backups"][str(folder)]["not_searched"] == ["ledger.dump"]
    assert b"jane.roe" not in bytes_of(folder)
    assert (folder / "ledger.dump").exists()


def test_a_backup_that_was_changed_is_not_rewritten(node, event):
    node.settle(event("SESSION_STARTED", "zx81session", userId="jane.roe@example.com"), DONE)
    backup(node)
    path = node.folder / "copy" / "ledger.db"
    path.write_bytes(path.read_bytes() + b"x")

    assert "was changed" in node.run("erase", "--session", "zx81session", "--backup", "copy", code=1).stderr
    assert node.rows("session", "zx81session")  # nothing is done by halves


@pytest.mark.parametrize("session", ["zx81session", "42"])  # the other one is in many texts that mean something else
def test_what_was_on_its_way_is_erased_from_a_backup_whose_ledger_does_not_know_the_session(any_node, event, session):
    bodies = [event("SESSION_STARTED", session, userId="jane.roe@example.com"), event("STOPPED", session)]
    for body in bodies:
        any_node.keep(body)
    kept = any_node.keep(event("SESSION_STARTED", "s-2", userId="driver-8"))
    backup(any_node, "copy")
    backup(any_node, "other")
    for body in bodies:
        any_node.settle(body, DONE)

    (certificate,) = any_node.rows("erase", "--user", "jane.roe@example.com", "--backup", "copy")
    (any_node.folder / "certificates").write_text(json.dumps(certificate))
    (again,) = any_node.rows("erase", "--again", "certificates", "--backup", "other")

    for found, name in ((certificate, "copy"), (again, "other")):
        assert found["backups"][name]["inbox deliveries"] == 2
        with closing(sqlite3.connect(any_node.folder / name / FILE_NAME)) as file:
            assert file.execute("SELECT id FROM deliveries").fetchall() == [(kept,)]


@pytest.mark.parametrize("name", [".", "../latest"])
def test_a_backup_is_rewritten_where_it_is_however_it_is_named(node, event, monkeypatch, name):
    node.settle(event("SESSION_STARTED", "zx81session", userId="jane.roe@example.com"), DONE)
    backup(node)
    (node.folder / "latest").symlink_to("copy")
    monkeypatch.chdir(node.folder / "copy")

    node.run("erase", "--user", "jane.roe@example.com", "--backup", name)

    assert (node.folder / "latest").is_symlink()
    assert {path.name for path in node.folder.glob("copy*")} == {"copy"}
    assert b"jane.roe" not in bytes_of(node.folder / "copy")


def test_a_certificate_says_which_file_could_not_be_rewritten(node, event, monkeypatch):
    node.settle(event("SESSION_STARTED", "zx81session", userId="jane.roe@example.com"), DONE)
    node.run("archive", "--before", "2026-06-01T00:00Z", "--to", "old.jsonl.gz")
    backup(node)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "copy.partial")

    monkeypatch.setattr(shutil, "copytree", fail)
    (certificate,) = node.rows(
        "erase", "--user", "jane.roe@example.com", "--backup", "copy", "--archive", "old.jsonl.gz", code=1
    )

    assert certificate["ledger"]["deliveries"] == certificate["archives"]["old.jsonl.gz"] == 1
    assert certificate["backups"]["copy"] == {"failed": "copy.partial: No space left on device"}


def test_workers_start_at_once_on_a_ledger_that_was_restored(node, event, valkey_url, valkey):
    node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    backup(node)
    before = load_settings(database_url=str(node.engine.url), queue_namespace="prod", redis_url=valkey_url)
    announce(valkey.plain, own_installation(before, node.engine))
    other = Installation("prod", "another ledger", "elsewhere")
    announce(valkey.plain, other)
    new = elsewhere(node)

    restore(node, REDIS_URL=valkey_url, QUEUE_NAMESPACE="prod")

    assert [each.ledger for each in list_installations(valkey.plain)] == [other.ledger]
    engine = create_ledger_engine(new["DATABASE_URL"])
    withdraw(valkey.plain, other)
    assert announce(valkey.plain, own_installation(before, engine)) is None
    engine.dispose()


@pytest.mark.parametrize("name", ["ledger.db", FILE_NAME])
def test_a_file_that_cannot_be_copied_is_named(node, event, name):
    node.keep(event("SESSION_STARTED"))
    node.settle(event("SESSION_STARTED", "s-2"), DONE)
    node.engine.dispose()
    os.truncate(node.folder / name, (node.folder / name).stat().st_size // 2)

    assert f"{name} could not be copied to" in node.run("backup", "--to", "copy", code=1).stderr


def test_there_must_be_room_for_the_log_of_a_file_too(node, event, monkeypatch):
    node.keep(event("SESSION_STARTED"))
    used = sum(path.stat().st_size for path in (node.folder / FILE_NAME, node.folder / "ledger.db"))
    (node.folder / f"{FILE_NAME}-wal").write_bytes(bytes(1000))
    monkeypatch.setattr(write_backup.shutil, "disk_usage", lambda _path: SimpleNamespace(free=used + 999))

    assert f"{used + 999:,} bytes free" in node.run("backup", "--to", "copy", code=1).stderr
