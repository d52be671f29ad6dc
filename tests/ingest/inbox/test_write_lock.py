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
def door(tmp_path):
    with contextlib.closing(open_inbox_file(tmp_path / FILE_NAME)) as opened:
        disable_busy_timeout(opened)
        yield opened


@pytest.fixture
def file(door, tmp_path):
    with contextlib.closing(open_for_background_writes(tmp_path / FILE_NAME)) as opened:
        yield opened


def notes(door):
    return [text for (text,) in door.execute("SELECT value FROM meta WHERE name = 'note'")]


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, sqlite3.OperationalError])
def test_whatever_ends_a_transaction_early_nothing_is_written_and_the_lock_is_given_back(door, file, end):
    def write_half():
        with transaction(file):
            file.execute(NOTE, ("half",))
            raise end

    with pytest.raises(end):
        write_half()
    door.execute("BEGIN IMMEDIATE")
    door.execute("COMMIT")
    assert notes(door) == []


def test_what_is_written_as_one_is_there_when_it_is_whole(door, file):
    with transaction(file):
        file.execute(NOTE, ("whole",))
        assert notes(door) == []
    assert notes(door) == ["whole"]


def test_a_write_waits_for_the_lock_and_counts_its_rows(door, file, monkeypatch):
    door.execute("BEGIN IMMEDIATE")
    looks = []

    def leave_at_the_third(_seconds):
        looks.append(1)
        if len(looks) == 3:
            door.execute("COMMIT")

    monkeypatch.setattr(write_lock.time, "sleep", leave_at_the_third)
    assert execute_with_retry(file, NOTE, ("late",)) == 1
    assert len(looks) == 3


def test_what_fails_for_another_reason_is_not_tried_again(file, monkeypatch):
    monkeypatch.setattr(write_lock.time, "sleep", lambda _seconds: pytest.fail("it was tried again"))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        execute_with_retry(file, "INSERT INTO nowhere VALUES (1)")
