import contextlib
import sqlite3
import subprocess
import sys

import pytest

from ingest.inbox import write_lock
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.inbox.write_lock import (
    disable_busy_timeout,
    execute_with_retry,
    open_for_background_writes,
    transaction,
)

NOTE = "INSERT INTO meta VALUES ('note', ?)"
# As a process leaves the index of the log that is killed while it writes there, and as one locks it that recovers it:
# the first of two copies of the header differs, and the bytes of three locks are taken
# (https://sqlite.org/walformat.html#wal_locks).
RECOVERING = """
import fcntl, sys
with open(sys.argv[1], "r+b", buffering=0) as index:
    fcntl.lockf(index, fcntl.LOCK_EX, 3, 120)
    index.seek(8)
    index.write(b"\\xff\\xff\\xff\\xff")
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def inbox(tmp_path):
    with contextlib.closing(open_inbox_file(tmp_path / FILE_NAME)) as opened:
        disable_busy_timeout(opened)
        yield opened


@pytest.fixture
def file(inbox, tmp_path):
    with contextlib.closing(open_for_background_writes(tmp_path / FILE_NAME)) as opened:
        yield opened


def notes(inbox):
    return [text for (text,) in inbox.execute("SELECT value FROM meta WHERE name = 'note'")]


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, sqlite3.OperationalError])
def test_an_error_in_a_transaction_rolls_back_and_releases_the_lock(inbox, file, end):
    def write_half():
        with transaction(file):
            file.execute(NOTE, ("half",))
            raise end

    with pytest.raises(end):
        write_half()
    inbox.execute("BEGIN IMMEDIATE")
    inbox.execute("COMMIT")
    assert notes(inbox) == []


def test_a_transaction_is_visible_after_its_commit(inbox, file):
    with transaction(file):
        file.execute(NOTE, ("whole",))
        assert notes(inbox) == []
    assert notes(inbox) == ["whole"]


def test_a_statement_waits_for_the_lock_and_returns_its_row_count(inbox, file, monkeypatch):
    inbox.execute("BEGIN IMMEDIATE")
    looks = []

    def leave_at_the_third(_seconds):
        looks.append(1)
        if len(looks) == 3:
            inbox.execute("COMMIT")

    monkeypatch.setattr(write_lock.time, "sleep", leave_at_the_third)
    assert execute_with_retry(file, NOTE, ("late",)) == 1
    assert len(looks) == 3


def test_a_statement_waits_while_another_process_recovers_the_log(inbox, file, tmp_path, monkeypatch):
    inbox.execute(NOTE, ("early",))
    inbox.execute("DELETE FROM meta WHERE name = 'note'")
    command = [sys.executable, "-c", RECOVERING, str(tmp_path / f"{FILE_NAME}-shm")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(sqlite3.OperationalError) as caught:
            file.execute(NOTE, ("refused",))
        assert caught.value.sqlite_errorcode == sqlite3.SQLITE_BUSY_RECOVERY
        monkeypatch.setattr(write_lock.time, "sleep", lambda _seconds: other.communicate())

        assert execute_with_retry(file, NOTE, ("late",)) == 1

    assert notes(inbox) == ["late"]


def test_other_errors_are_not_retried(file, monkeypatch):
    monkeypatch.setattr(write_lock.time, "sleep", lambda _seconds: pytest.fail("it was tried again"))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        execute_with_retry(file, "INSERT INTO nowhere VALUES (1)")
