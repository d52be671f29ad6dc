import contextlib
import fcntl
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ingest.inbox import corruption
from ingest.inbox.corruption import lock_and_check
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.wire.envelope import Kind, delivery_id


@pytest.fixture
def path(tmp_path):
    return tmp_path / "var" / FILE_NAME


@pytest.fixture
def occupied(path):
    """Lock the file as a process that serves does."""
    with contextlib.ExitStack() as held:

        def hold():
            lock = lock_and_check(path)
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


def test_a_valid_file_is_left_alone(path, occupied):
    fill(path)
    occupied()

    assert count(path) == 2000
    assert set_aside(path) == []


def test_a_file_that_is_not_a_database_is_renamed_and_logged_as_an_error(path, occupied):
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, " * 1000)
    with capture_logs() as logs:
        occupied()

    assert count(path) == 0
    (aside,) = set_aside(path)
    assert aside.read_bytes().startswith(b"this is not")
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("inbox.quarantined", "error"),
        ("inbox.recovered_rows", "warning"),
    ]


def test_a_file_with_a_corrupt_page_is_renamed_with_its_log(path, occupied):
    fill(path)
    damaged = bytearray(path.read_bytes())
    damaged[8 * 4096 : 20 * 4096] = b"\xab" * 12 * 4096
    path.write_bytes(damaged)
    occupied()

    assert count(path) == 0
    assert len(set_aside(path)) == 1


def die_at_rename(path, number):
    """Rename the file in a process that is killed halfway, while another connection preserves the log."""
    if os.fork():
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 9
        return
    beside = open_inbox_file(path)
    beside.execute("SELECT * FROM seen").fetchone()
    rename, left = Path.rename, iter(range(number))

    def rename_or_die(this, target):
        if next(left, None) is None:
            os._exit(9)
        return rename(this, target)

    Path.rename = rename_or_die
    lock_and_check(path)
    os._exit(0)


def keep_in_log(path):
    """Leave rows in the log only, like a process that is killed."""
    if os.fork():
        os.wait()
        return
    file = open_inbox_file(path)
    file.executemany("INSERT INTO seen (id, first_at) VALUES (?, 1)", [(f"new{number}",) for number in range(50)])
    os._exit(0)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_no_log_is_lost_if_the_process_is_killed_while_it_renames(path, occupied, number):
    fill(path)
    keep_in_log(path)
    damaged = bytearray(path.read_bytes())
    damaged[8 * 4096 : 9 * 4096] = b"\xab" * 4096
    path.write_bytes(damaged)
    die_at_rename(path, number)
    occupied()

    assert count(path) == 0
    (aside,) = set_aside(path)
    with contextlib.closing(sqlite3.connect(aside)) as file:
        file.execute("PRAGMA writable_schema = ON")
        assert file.execute("SELECT count(*) FROM seen WHERE id >= 'new'").fetchone() == (50,)


@pytest.mark.parametrize(("has_log", "is_newer"), [(True, False), (False, True)])
def test_a_log_without_a_file_is_not_added_to_another_renamed_file(path, occupied, has_log, is_newer):
    fill(path)
    keep_in_log(path)
    other, log = path.with_name(f"{path.name}.damaged-20260504T100000"), path.with_name(f"{path.name}-wal")
    path.rename(other)
    if has_log:
        other.with_name(f"{other.name}-wal").write_bytes(b"its own")
    if is_newer:
        os.utime(log, (time.time() + 60,) * 2)
    content = log.read_bytes()
    with capture_logs() as logs:
        occupied()

    assert count(path) == 0
    (line,) = logs
    assert (line["event"], line["file"] == other.name) == ("inbox.quarantined", False)
    assert path.with_name(f"{line['file']}-wal").read_bytes() == content


def test_two_files_that_are_renamed_within_a_second_are_both_preserved(path, occupied):
    for number in range(2):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"this is not a database, {number}".encode() * 1000)
        os.close(lock_and_check(path))

    assert len(set_aside(path)) == 2


def test_the_log_line_comes_before_the_renaming(path, occupied, monkeypatch):
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, " * 1000)

    def killed(_this, _target):
        raise OSError("killed")

    monkeypatch.setattr(Path, "rename", killed)
    with capture_logs() as logs, pytest.raises(OSError, match="killed"):
        occupied()

    assert [line["event"] for line in logs] == ["inbox.quarantined"]


def test_only_a_process_that_is_alone_with_the_file_renames_it(path, occupied):
    occupied()
    path.write_bytes(b"this is not a database, " * 1000)
    occupied()

    assert set_aside(path) == []


def test_a_file_that_cannot_be_read_now_is_not_taken_for_corrupt(path, occupied, monkeypatch):
    fill(path)

    def locked(_path):
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    monkeypatch.setattr(corruption, "open_inbox_file", locked)
    occupied()

    assert set_aside(path) == []


def test_without_locks_no_descriptor_is_left_open(path, monkeypatch):
    def unsupported(_descriptor, _operation):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="no locks"):
        lock_and_check(path)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_marked_file_is_checked_thoroughly_after_the_others_have_shut_down(path):
    fill(path)
    first = lock_and_check(path)
    with contextlib.closing(open_inbox_file(path)) as file:  # an index that lacks a row: no page is corrupt
        file.execute("PRAGMA writable_schema = ON")
        file.execute("CREATE INDEX of_moments ON seen (first_at)")
        file.execute(
            "UPDATE sqlite_master SET sql = 'CREATE INDEX of_moments ON seen (receipts)' WHERE name = 'of_moments'"
        )
    corruption.mark_corrupt(path)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(lock_and_check, path)
        with pytest.raises(TimeoutError):
            second.result(0.3)
        os.close(first)
        os.close(second.result(10))
    assert len(set_aside(path)) == 1
    assert not corruption.is_marked_corrupt(path)


def test_a_marked_file_that_is_valid_is_unmarked(path, occupied):
    fill(path)
    corruption.mark_corrupt(path)
    occupied()
    assert count(path) == 2000
    assert not corruption.is_marked_corrupt(path)


def test_a_process_that_does_not_shut_down_is_waited_for_only_so_long(path, occupied, monkeypatch):
    monkeypatch.setattr(corruption, "SHUTDOWN_TIMEOUT", 0.2)
    occupied()
    corruption.mark_corrupt(path)
    occupied()
    assert corruption.is_marked_corrupt(path)


def test_a_recovery_that_was_killed_is_continued_by_the_next_start(path, occupied, monkeypatch):
    fill(path)
    with contextlib.closing(open_inbox_file(path)) as file:
        body, id_ = b"{}", delivery_id(Kind.EVENTS, b"{}")
        file.execute(
            "INSERT INTO deliveries (id, kind, queue, received_at, signed_with, headers, body)"
            " VALUES (?, 'events', 'other', 0, 'current', '{}', ?)",
            (id_, body),
        )
        (page,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'deliveries_offered'").fetchone()
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"spoilt" * 100)

    class Killed(BaseException):
        pass

    def die(*_files):
        raise Killed

    with monkeypatch.context() as killing:
        killing.setattr(corruption, "recover", die)
        with pytest.raises(Killed):
            occupied()
    occupied()
    with contextlib.closing(open_inbox_file(path)) as file:
        assert file.execute("SELECT id, body FROM deliveries").fetchall() == [(id_, body)]
    assert not corruption.is_marked_corrupt(path)


def test_a_recovery_that_fails_is_retried_by_the_next_start(path, monkeypatch):
    fill(path)
    corruption.mark_corrupt(path)
    Path(f"{path}.suspect").write_text("inbox.db.damaged-x")
    path.with_name("inbox.db.damaged-x").write_bytes(b"spoilt" * 1000)

    def fail(*_files):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as failing:
        failing.setattr(corruption, "recover", fail)
        os.close(lock_and_check(path))
    assert corruption.is_marked_corrupt(path)
    os.close(lock_and_check(path))
    assert not corruption.is_marked_corrupt(path)
