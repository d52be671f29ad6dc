import errno
import gzip
import os

from sqlalchemy import update

from workers.ledger.states import BodyDeletion, Outcome
from workers.ledger.tables.core_tables import deliveries
from workers.privacy import archive
from workers.privacy.archive import ArchiveUnreadable, verify_archive

DONE = ("session_record", Outcome.DONE)


def archived(node):
    node.run("archive", "--before", "2026-06-01T00:00Z", "--to", "old.jsonl.gz")
    return node.folder / "old.jsonl.gz"


def test_what_retention_deleted_is_back_after_a_replay_of_the_archive(any_node, event):
    id_ = any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    file = archived(any_node)
    any_node.run("retain")

    any_node.run("replay", "--from", str(file))

    (row,) = any_node.rows("show", id_)
    assert "driver-7" in row["body"]
    assert (row["state"], row["body_deletion"]) == ("retrying", None)


def test_a_delivery_that_the_ledger_does_not_have_is_inserted_and_runs(any_node, event):
    id_ = any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    file = archived(any_node)
    any_node.run("retain", RETAIN_DELIVERIES="100d")
    assert not any_node.rows("deliveries")

    output = any_node.run("replay", "--from", str(file)).stdout

    assert "1 for the first time" in output
    (row,) = any_node.rows("show", id_)
    assert (row["event"], row["state"], row["reason"]) == ("SESSION_STARTED", "retrying", None)


def test_what_was_erased_stays_erased(any_node, event):
    id_ = any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    file = archived(any_node)
    any_node.run("erase", "--user", "driver-7")

    any_node.run("replay", "--from", str(file))

    assert any_node.rows("show", id_)[0]["body"] == ""


def test_what_was_erased_does_not_come_back_after_the_ledger_has_deleted_its_row(any_node, event):
    any_node.settle(event("SESSION_STARTED", "s-7", userId="driver-7"), DONE)
    id_ = any_node.settle(event("SESSION_STARTED", "s-8", userId="driver-8"), DONE)
    file = archived(any_node)
    any_node.run("erase", "--user", "driver-7")
    any_node.run("retain", RETAIN_DELIVERIES="100d")

    output = any_node.run("replay", "--from", str(file)).stdout

    assert [row["id"] for row in any_node.rows("deliveries")] == [id_], output


def test_an_archive_that_was_changed_is_refused(node, event):
    node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    file = archived(node)
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    for damaged in (
        [lines[0].replace(b"current", b"next"), lines[1]],
        lines[:1],
        lines[1:],
        [*lines, lines[0]],
        [b"x"],
    ):
        file.write_bytes(gzip.compress(b"".join(damaged)))
        assert "archive" in node.run("replay", "--from", str(file), code=1).stderr
    file.write_bytes(b"no archive")
    node.run("replay", "--from", str(file), code=1)


def test_an_archive_replaces_no_file(node, event):
    file = archived(node)

    assert "exists" in node.run("archive", "--before", "2026-06-01T00:00Z", "--to", str(file), code=1).stderr
    (entry,) = node.rows("audit")
    assert (entry["act"], entry["count"]) == ("archived", 0)
    assert entry["subject"].startswith("before 2026-06-01T00:00:00")


def test_an_archive_that_is_named_is_rewritten_without_the_driver(any_node, event):
    any_node.settle(event("SESSION_STARTED", "s-1", userId="Driver-7"), DONE)
    any_node.settle(event("SESSION_STOPPED", "s-1", plate="M-XY 1"), DONE)
    any_node.settle(b'[{"note": "for driver-7"}]')
    other = any_node.settle(event("SESSION_STARTED", "s-2", userId="driver-70"), DONE)
    file = archived(any_node)
    before = file.read_bytes()

    (found,) = any_node.rows("erase", "--user", "driver-7", "--archive", str(file), "--dry-run")
    assert found["archives"] == {str(file): 3}
    assert file.read_bytes() == before
    (certificate,) = any_node.rows("erase", "--user", "driver-7", "--archive", str(file))

    assert certificate["archives"] == {str(file): 3}
    text = gzip.decompress(file.read_bytes())
    (line, end) = text.splitlines()
    assert other in line.decode()
    assert b'"erased": 3' in end
    assert "1 once more" in any_node.run("replay", "--from", str(file)).stdout  # the digest is that of what is left


def test_what_only_an_archive_knows_of_a_driver_is_erased_from_it(node, event):
    node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    node.settle(event("SESSION_STOPPED", "s-1", plate="M-XY 1"), DONE)
    file = archived(node)
    node.run("retain", RETAIN_DELIVERIES="100d", RETAIN_SESSIONS="1d")
    assert not node.rows("deliveries")

    (certificate,) = node.rows("erase", "--user", "driver-7", "--archive", str(file))

    assert certificate["archives"] == {str(file): 2}
    assert b"M-XY" not in gzip.decompress(file.read_bytes())


def test_an_archive_that_was_changed_is_not_rewritten(node, event):
    node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    file = archived(node)
    damaged = gzip.compress(gzip.decompress(file.read_bytes()).replace(b"current", b"next"))
    file.write_bytes(damaged)

    assert "was changed" in node.run("erase", "--user", "driver-7", "--archive", str(file), code=1).stderr
    assert file.read_bytes() == damaged
    assert node.rows("deliveries", "--user", "driver-7")  # nothing is done by halves


def test_an_archive_is_readable_by_its_owner_alone_and_keeps_what_its_owner_has_set(node, event):
    node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    node.settle(event("SESSION_STARTED", "s-2", userId="driver-8"), DONE)
    file = archived(node)
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)

    node.run("erase", "--user", "driver-7", "--archive", str(file))

    assert file.stat().st_mode & 0o777 == 0o640


def test_an_archive_behind_a_link_is_rewritten_where_it_is(node, event):
    node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    file = archived(node)
    link = node.folder / "latest.jsonl.gz"
    link.symlink_to(file)

    node.run("erase", "--user", "driver-7", "--archive", str(link))

    assert link.is_symlink()
    assert b"driver-7" not in gzip.decompress(file.read_bytes())


def test_an_archive_that_could_not_be_written_leaves_nothing(node, event, monkeypatch):
    node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)

    def fail(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)

    node.run("archive", "--before", "2026-06-01T00:00Z", "--to", "old.jsonl.gz", code=1)

    assert not list(node.folder.glob("old.jsonl.gz*"))


def test_an_archive_of_which_any_byte_was_changed_is_refused_or_as_it_was(node, event):
    node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    file = archived(node)
    written = file.read_bytes()
    lines = gzip.decompress(written)
    for place in range(len(written)):
        file.write_bytes(written[:place] + bytes([written[place] ^ 0x55]) + written[place + 1 :])
        try:
            verify_archive(file)
        except ArchiveUnreadable:
            continue
        assert gzip.decompress(file.read_bytes()) == lines


def test_an_archive_of_a_newer_version_is_refused_in_a_sentence(node, event, monkeypatch):
    node.settle(event("SESSION_STARTED"), DONE)
    monkeypatch.setattr(archive, "VERSION", archive.VERSION + 1)
    fields = archive._fields
    monkeypatch.setattr(archive, "_fields", lambda delivery: {**fields(delivery), "of_tomorrow": 1})
    file = archived(node)
    monkeypatch.undo()

    assert "newer version wrote this archive" in node.run("replay", "--from", str(file), code=1).stderr


def test_what_is_erased_while_an_archive_is_restored_stays_erased(any_node, event, monkeypatch):
    id_ = any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    file = archived(any_node)
    any_node.run("retain")

    def erase_meanwhile(ledger, _archived):
        ledger.execute(update(deliveries).values(body_deletion=BodyDeletion.ERASURE))
        return set()

    monkeypatch.setattr(archive, "of_erased_sessions", erase_meanwhile)
    any_node.run("replay", "--from", str(file))

    assert any_node.rows("show", id_)[0]["body"] == ""
