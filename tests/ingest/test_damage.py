import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ingest import damage
from ingest.damage import occupy
from ingest.inboxfile import FILE_NAME, open_inbox_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "var" / FILE_NAME


@pytest.fixture
def occupied(path):
    """Hold the file as a process that serves does."""
    with contextlib.ExitStack() as held:

        def hold():
            lock = occupy(path)
            held.callback(os.close, lock)

        yield hold


def fill(path):
    with contextlib.closing(open_inbox_file(path)) as file:
        file.execute("BEGIN")
        file.executemany(
            "INSERT INTO seen (id, first_at) VALUES (?, 0)", [(f"{number:032x}",) for number in range(2000)]
        )
        file.execute("COMMIT")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def count(path):
    with contextlib.closing(open_inbox_file(path)) as file:
        return file.execute("SELECT count(*) FROM seen").fetchone()[0]


def set_aside(path):
    return [found for found in path.parent.glob(f"{FILE_NAME}.damaged-*") if not found.name.endswith(("-wal", "-shm"))]


def test_a_sound_file_stays(path, occupied):
    fill(path)
    occupied()

    assert count(path) == 2000
    assert set_aside(path) == []


def test_a_file_that_is_no_database_is_set_aside_and_loudly_so(path, occupied):
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, " * 1000)
    with capture_logs() as logs:
        occupied()

    assert count(path) == 0
    (aside,) = set_aside(path)
    assert aside.read_bytes().startswith(b"this is not")
    assert [(line["event"], line["log_level"]) for line in logs] == [("inbox.set_aside", "error")]


def test_a_file_with_a_damaged_page_is_set_aside_with_its_log(path, occupied):
    fill(path)
    damaged = bytearray(path.read_bytes())
    damaged[8 * 4096 : 20 * 4096] = b"\xab" * 12 * 4096
    path.write_bytes(damaged)
    occupied()

    assert count(path) == 0
    assert len(set_aside(path)) == 1


def test_only_the_first_who_comes_may_set_a_file_aside(path, occupied):
    occupied()
    path.write_bytes(b"this is not a database, " * 1000)
    occupied()

    assert set_aside(path) == []


def test_a_file_that_cannot_be_read_just_now_is_not_damaged(path, occupied, monkeypatch):
    fill(path)

    def locked(_path):
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    monkeypatch.setattr(damage, "open_inbox_file", locked)
    occupied()

    assert set_aside(path) == []


def test_without_locks_no_descriptor_is_left_open(path, monkeypatch):
    def unsupported(_descriptor, _operation):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="no locks"):
        occupy(path)

    assert len(list(Path("/proc/self/fd").iterdir())) == before
