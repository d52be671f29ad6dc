"""SQLite's WAL-reset bug (https://sqlite.org/wal.html#walresetbug), forced, and the discipline that closes it."""

import contextlib
import ctypes
import os
import platform
import shutil
import sqlite3
import struct
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from ingest.inbox import write_lock
from ingest.inbox.rows import open_for_inserts
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.inbox.write_lock import Checkpointer, open_for_background_writes
from ingest.relay.outbox import Outbox

# linux/ptrace.h, and fcntl's number in asm/unistd.h.
CONT, SINGLESTEP, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 7, 9, 24, 0x4200, 0x420E
TRACESYSGOOD = 1
ENTRY = 1
FCNTL = {"x86_64": 72, "aarch64": 25}
SETLK, WRLCK = 6, 1
# Where the wal-index has its lock of checkpoints: https://sqlite.org/walformat.html#wal_locks.
CHECKPOINT_LOCK = 121
# Machine instructions after that lock within which the checkpoint reads the header of the log, and how much is copied.
WINDOW = range(60, 600, 60)

CHECKPOINTER = """
import ctypes, os, signal, sqlite3, sys
from pathlib import Path
from ingest.inbox import write_lock
from ingest.inbox.schema import open_inbox_file
path = Path(sys.argv[1])
file = open_inbox_file(path)
write_lock.CHECKPOINT_AFTER = 0
checkpointer = write_lock.Checkpointer(path)
def bare(): file.execute("PRAGMA wal_checkpoint(PASSIVE)")
def locked(): checkpointer.after_commit(file, 0)
run = {"bare": bare, "locked": locked}[sys.argv[2]]
ctypes.CDLL(None).ptrace(0, 0, None, None)
os.kill(os.getpid(), signal.SIGSTOP)
run()
os.kill(os.getpid(), signal.SIGSTOP)
run()
"""

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request, pid, address=0, value=0):
    if libc.ptrace(request, pid, address, value) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class TracedCheckpoint:
    """A process that has completed a checkpoint and is stopped within the next one."""

    def __init__(self, path, how):
        self._process = subprocess.Popen([sys.executable, "-c", CHECKPOINTER, str(path), how])
        self._pid = self._process.pid
        self._await_stop()
        ptrace(SETOPTIONS, self._pid, 0, TRACESYSGOOD)
        self._resume(CONT)  # until the first checkpoint is complete

    def run_into(self, instructions):
        """Stop so many instructions after the lock of checkpoints was taken."""
        while not self._takes_the_checkpoint_lock():
            self._resume(SYSCALL)
        self._resume(SYSCALL)
        for _ in range(instructions):
            self._resume(SINGLESTEP)

    def finish(self):
        ptrace(CONT, self._pid)
        assert self._process.wait(timeout=30) == 0

    def _takes_the_checkpoint_lock(self):
        info = ctypes.create_string_buffer(96)
        ptrace(GET_SYSCALL_INFO, self._pid, len(info), ctypes.addressof(info))
        stop, _, _, _, number, _, command, address = struct.unpack_from("=B3xIQQQQQQ", info.raw)
        if stop != ENTRY or number != FCNTL[platform.machine()] or command != SETLK:
            return False
        with open(f"/proc/{self._pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - unbuffered
            memory.seek(address)
            kind, _, start, _ = struct.unpack("hh4xqq", memory.read(24))
        return (kind, start) == (WRLCK, CHECKPOINT_LOCK)

    def _resume(self, how):
        ptrace(how, self._pid)
        self._await_stop()

    def _await_stop(self):
        _, status = os.waitpid(self._pid, 0)
        assert os.WIFSTOPPED(status), "the process that checkpoints has ended"


class Writer:
    """Commits rows of a page each, and knows how many it has committed."""

    def __init__(self, path):
        self.path = path
        self.count = 0
        self._file = open_inbox_file(path)
        self._file.execute("PRAGMA busy_timeout = 0")
        self._file.execute("CREATE TABLE IF NOT EXISTS pages (number INTEGER PRIMARY KEY, content BLOB)")

    def commit(self, pages):
        with contextlib.suppress(sqlite3.Error):
            self._file.rollback()
        self._file.execute("BEGIN IMMEDIATE")
        for number in range(self.count, self.count + pages):
            self._file.execute("INSERT INTO pages VALUES (?, ?)", (number, bytes(3000)))
        self._file.execute("COMMIT")
        self.count += pages

    def checkpoint(self):
        self._file.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextlib.contextmanager
    def locking(self):
        self._file.execute("BEGIN IMMEDIATE")
        yield
        self._file.execute("ROLLBACK")

    def is_all_there(self):
        """Return whether another connection finds a valid file with all rows."""
        with contextlib.closing(sqlite3.connect(self.path)) as reader:
            try:
                (found,) = reader.execute("PRAGMA integrity_check(1)").fetchone()
                (count,) = reader.execute("SELECT count(*) FROM pages NOT INDEXED").fetchone()
            except sqlite3.DatabaseError:
                return False
        return (found, count) == ("ok", self.count)

    def close(self):
        self._file.close()


def race(path, how, instructions):
    """Commit while a checkpoint is stopped; return whether the commit was refused, and whether all is there later."""
    with contextlib.closing(Writer(path)) as writer:
        writer.commit(20)
        traced = TracedCheckpoint(path, how)
        traced.run_into(instructions)
        try:
            writer.commit(5)  # resets the log
            is_refused = False
        except sqlite3.OperationalError as error:
            is_refused = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
        traced.finish()
        writer.commit(30)
        writer.checkpoint()
        for _ in range(2):
            writer.commit(1)
        return is_refused, writer.is_all_there()


@pytest.fixture(scope="module")
def _ptrace():
    if sys.platform != "linux" or platform.machine() not in FCNTL:
        pytest.skip("the race is forced with Linux's ptrace")
    with subprocess.Popen(["sleep", "30"]) as process:
        try:
            ptrace(16, process.pid)  # attach
        except OSError:
            pytest.skip("no process can be traced here")
        finally:
            process.kill()


@pytest.mark.usefixtures("_ptrace")
def test_a_bare_checkpoint_loses_commits_where_sqlite_has_the_bug(tmp_path):
    """Show that the race below is the one that loses commits."""
    if sqlite3.sqlite_version_info >= (3, 51, 3) or sqlite3.sqlite_version_info[:2] in {(3, 44), (3, 50)}:
        pytest.skip("this SQLite does not have the bug")
    outcomes = [race(tmp_path / f"{steps}.db", "bare", steps) for steps in WINDOW]
    assert (False, False) in outcomes


@pytest.mark.usefixtures("_ptrace")
def test_no_commit_can_reset_the_log_while_a_checkpoint_runs(tmp_path):
    outcomes = [race(tmp_path / f"{steps}.db", "locked", steps) for steps in WINDOW]
    assert set(outcomes) == {(True, True)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / FILE_NAME


def fill(file, pages):
    file.execute("PRAGMA synchronous = OFF")
    for _ in range(pages):
        file.execute("INSERT OR REPLACE INTO meta VALUES ('large', ?)", ("x" * 4000,))


@pytest.mark.parametrize("opens", [open_inbox_file, open_for_inserts, open_for_background_writes])
def test_no_connection_checkpoints_by_itself(path, opens):
    """In WAL mode only a checkpoint writes the file itself. SQLite's own default would do so after 1,000 pages."""
    with contextlib.closing(open_inbox_file(path)):
        before = path.read_bytes()
        with contextlib.closing(opens(path)) as file:
            fill(file, 1100)
        with contextlib.closing(Outbox(path)):
            pass
        assert path.read_bytes() == before


def test_a_checkpoint_holds_the_write_lock_and_copies_everything(path, monkeypatch):
    locked = []

    def open_traced(path):
        file = open_inbox_file(path)
        file.set_trace_callback(lambda statement: "checkpoint" in statement and locked.append(is_locked(path)))
        return file

    def is_locked(path):
        with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False

    with contextlib.closing(open_inbox_file(path)) as file:
        fill(file, 10)
        monkeypatch.setattr(write_lock, "open_inbox_file", open_traced)
        Checkpointer(path).after_commit(file, write_lock.CHECKPOINT_AFTER)
        assert locked == [True]
        assert b"x" * 3000 in path.read_bytes()
        assert not is_locked(path)


def test_a_checkpoint_that_fails_is_logged_once_and_tried_again(path, monkeypatch):
    monkeypatch.setattr(write_lock, "LOCK_TIMEOUT", 0.01)
    monkeypatch.setattr(write_lock, "CHECKPOINT_AFTER", 1)
    checkpointer = Checkpointer(path)
    with contextlib.closing(open_for_background_writes(path)) as file, contextlib.closing(Writer(path)) as other:
        fill(file, 10)
        with other.locking(), capture_logs() as logs:
            checkpointer.after_commit(file, 1)
            checkpointer.after_commit(file, 1)
        assert b"x" * 3000 not in path.read_bytes()
        checkpointer.after_commit(file, 1)
        assert b"x" * 3000 in path.read_bytes()
    assert [(line["event"], line["error"]) for line in logs] == [
        ("inbox.checkpoint_failed", "OperationalError: database is locked")
    ]


def test_a_checkpoint_without_its_folder_is_logged_and_raises_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(write_lock, "CHECKPOINT_AFTER", 1)
    folder = tmp_path / "data"
    folder.mkdir()
    checkpointer = Checkpointer(folder / FILE_NAME)
    with contextlib.closing(open_for_background_writes(folder / FILE_NAME)) as file:
        shutil.rmtree(folder)
        folder.touch()
        with capture_logs() as logs:
            checkpointer.after_commit(file, 1)
    assert [line["event"] for line in logs] == ["inbox.checkpoint_failed"]


WRITER = """
import sys
from pathlib import Path
from ingest.inbox import write_lock
from ingest.inbox.schema import open_inbox_file
path, name = Path(sys.argv[1]), sys.argv[2]
write_lock.CHECKPOINT_AFTER = 20_000
write_lock.LOCK_TIMEOUT = 30
file = write_lock.open_for_background_writes(path)
checkpointer = write_lock.Checkpointer(path)
for number in range(400):
    with write_lock.transaction(file):
        for part in range(1 + number % 3):
            file.execute("INSERT INTO pages VALUES (NULL, ?)", (f"{name}-{number}-{part}".encode().ljust(3000),))
    checkpointer.after_commit(file, 1)
    if number % 50 == 49:
        file.close()
        file = write_lock.open_for_background_writes(path)
"""


def test_several_processes_that_commit_and_checkpoint_lose_nothing_and_the_log_stays_short(path):
    with contextlib.closing(Writer(path)) as writer:
        processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(name)]) for name in range(4)]
        assert [process.wait(timeout=120) for process in processes] == [0] * 4
        writer.count = 4 * sum(1 + number % 3 for number in range(400))
        assert writer.is_all_there()
        # 1,600 commits of some four pages would be 26 MB.
        assert path.with_name(f"{FILE_NAME}-wal").stat().st_size < 8_000_000
