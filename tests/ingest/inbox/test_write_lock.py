import contextlib
import sqlite3

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


def test_other_errors_are_not_retried(file, monkeypatch):
    monkeypatch.setattr(write_lock.time, "sleep", lambda _seconds: pytest.fail("it was tried again"))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        execute_with_retry(file, "INSERT INTO nowhere VALUES (1)")
