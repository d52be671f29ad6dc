import contextlib
import sqlite3
import threading

import pytest

from ingest.inbox import schema
from ingest.inbox.schema import FILE_NAME, inbox_id, open_inbox_file


def test_an_inbox_has_one_id_for_ever(tmp_path):
    names = set()
    for _ in range(3):
        file = open_inbox_file(tmp_path / "var" / FILE_NAME)
        names.add(inbox_id(file))
        file.close()
    (name,) = names
    assert len(name) == 12


def test_a_commit_is_an_fsync_of_the_log(tmp_path):
    file = open_inbox_file(tmp_path / FILE_NAME)
    settings = [file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    file.close()
    assert settings == ["wal", 2]


def test_many_connections_can_create_and_close_the_file_at_once(tmp_path):
    problems = []

    def come_and_go(path, together):
        together.wait()
        try:
            for _ in range(5):
                file = open_inbox_file(path)
                file.execute("INSERT OR REPLACE INTO meta VALUES ('x', 'y')")
                file.close()
        except sqlite3.Error as error:
            problems.append(error)

    for number in range(30):
        arguments = (tmp_path / str(number) / FILE_NAME, threading.Barrier(4))
        threads = [threading.Thread(target=come_and_go, args=arguments) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == []


def test_opening_waits_for_a_lock_only_so_long(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "LOCK_TIMEOUT", 0.05)
    path = tmp_path / FILE_NAME
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        open_inbox_file(path)
    other.close()


def test_a_file_that_is_not_a_database_is_refused_at_once(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_text("this is not a database" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        open_inbox_file(path)


def test_a_delivery_that_an_older_release_kept_twice_does_not_close_the_file(tmp_path):
    path = tmp_path / FILE_NAME
    with contextlib.closing(open_inbox_file(path)) as file:
        file.execute("DROP INDEX deliveries_ids")
        for name, body in (("a", b"1"), ("b", b"2"), ("a", b"1"), ("a", None)):
            file.execute(
                "INSERT INTO deliveries (id, kind, queue, received_at, signed_with, headers, body)"
                " VALUES (?, 'events', 'other', 1.0, 'current', '{}', ?)",
                (name, body),
            )
    with contextlib.closing(open_inbox_file(path)) as file:
        found = file.execute("SELECT seq, id, body FROM deliveries ORDER BY seq").fetchall()
    assert found == [(1, "a", b"1"), (2, "b", b"2"), (4, "a", None)]
