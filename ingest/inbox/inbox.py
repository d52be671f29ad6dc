"""The durable inbox: deliveries are on disk before their requests are answered, many in one commit (group commit).

request -> envelope -> [inbox] -> relay -> jobs -> handler -> ledger
"""

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, TypeAlias

import structlog

from ingest.config.secret_reload import ReloadableSecrets
from ingest.config.settings import Settings
from ingest.errors import InboxUnavailable
from ingest.failpoints import Failpoint, hit
from ingest.inbox.corruption import is_corruption, lock_and_check
from ingest.inbox.disk_reserve import DiskReserve
from ingest.inbox.rows import Kept, Row, fitting_group, insert_new, open_for_inserts, row_of, upsert_rows
from ingest.inbox.schema import file_identity
from ingest.inbox.write_lock import ROW_BYTES, Checkpointer, execute_with_retry
from ingest.metrics import Metrics
from ingest.wire.envelope import Envelope

log = structlog.get_logger()

# Limits of one commit, as the relay and other processes wait for its lock. One delivery alone may have more bytes.
MAX_GROUP = 1000
MAX_GROUP_BYTES = 4_194_304
# Turns of the event loop in which a group may grow: requests that arrive together are rarely read in one turn.
GATHER_TURNS = 3
# The connection can still be used after these: there was no room, or the lock was taken.
TRANSIENT_ERRORS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
PROBE = "INSERT OR REPLACE INTO meta VALUES ('probed_at', ?)"
PROBED = Kept("", duplicate=False)
REPLACED = "The inbox file was deleted or replaced while it was in use: what waited in it is lost."

# The row (None for a probe), what waits for it, and its bytes.
PendingWrite: TypeAlias = tuple[Row | None, asyncio.Future[Kept], int]
# Commit the next group; or commit everything that waits, and end.
WriterCommand: TypeAlias = Literal["commit", "end"]


class Inbox:
    """Commits deliveries to the file in a thread of its own. `insert` and `probe` belong to one event loop.

    A write that fails raises InboxUnavailable and is not retried; later writes are tried as usual.
    """

    def __init__(self, path: Path, settings: Settings, metrics: Metrics | None = None) -> None:
        self._path = path
        self._max_waiting_bytes = settings.waiting_bytes
        self._reserve = DiskReserve(path, settings)
        self._redaction = ReloadableSecrets(
            settings, ("redact_key",), lambda texts: settings.redaction_with(texts["redact_key"])
        )
        self._checkpointer = Checkpointer(path)
        self._metrics = metrics or Metrics()
        self._on_commit: list[Callable[[], None]] = []
        self._on_corruption: list[Callable[[], None]] = []
        self._waiting: deque[PendingWrite] = deque()
        self._waiting_bytes = 0
        self._commands: SimpleQueue[WriterCommand] = SimpleQueue()
        self._is_scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate = threading.Lock()
        self._is_open = False
        self._thread = threading.Thread(target=self._write, name="inbox", daemon=True)
        self._lock_descriptor: int | None = None
        self._file: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self.problem: str | None = None
        """Why the last commit failed; None if it succeeded."""

    def start(self) -> None:
        """Start the writing thread. Never raises: each commit tries again to open a file that cannot be opened now."""
        try:
            self._lock_descriptor = lock_and_check(self._path)
            self._open_file()
        except (sqlite3.Error, OSError) as error:
            self._record_failure(error)
        self._is_open = True
        self._thread.start()

    def close(self) -> None:
        """Commit what waits and end the thread. To be called from another thread than the event loop's."""
        with self._gate:
            was_open, self._is_open = self._is_open, False
        if was_open:
            self._commands.put("end")
            self._thread.join()
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call the callback in the writing thread after each commit."""
        self._on_commit.append(callback)

    def on_corruption(self, callback: Callable[[], None]) -> None:
        """Call the callback once, in the writing thread, when the file turns out to be corrupt while in use."""
        self._on_corruption.append(callback)

    def is_replaced(self) -> bool:
        """Return whether another file, or none, is in the place of the one that was opened: what is written is lost."""
        return self._identity is not None and file_identity(self._path) != self._identity

    def insert(self, envelope: Envelope) -> asyncio.Future[Kept]:
        """Return a future that is done when the envelope is on disk. Raise InboxUnavailable, here or in the future."""
        return self._enqueue(row_of(envelope, self._redaction.now))

    def probe(self) -> asyncio.Future[Kept]:
        """Check that the disk accepts writes, by committing a probe row. Raise InboxUnavailable as `insert` does."""
        return self._enqueue(None)

    def refresh_redaction(self) -> None:
        """Read the file of REDACT_KEY again. To be called every second or so, by any thread."""
        changed = self._redaction.refresh()
        if changed:
            log.info("keys.reread", settings=changed)

    def _enqueue(self, row: Row | None) -> asyncio.Future[Kept]:
        size = ROW_BYTES + (len(row.body or b"") if row else 0)
        if self._waiting_bytes and self._waiting_bytes + size > self._max_waiting_bytes:
            raise InboxUnavailable("Too many bytes wait for the disk.")
        loop = self._loop
        if loop is None:  # to ask for it is a system call in Python 3.11
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Kept] = loop.create_future()
        with self._gate:
            if not self._is_open:
                raise InboxUnavailable("The inbox is closed.")
            self._waiting.append((row, future, size))
        self._waiting_bytes += size
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._schedule_commit, loop, 0, GATHER_TURNS)
        return future

    def _schedule_commit(self, loop: asyncio.AbstractEventLoop, before: int, turns: int) -> None:
        """Command a commit after the first turn of the loop that adds nothing to the group, or after so many turns."""
        waiting = len(self._waiting)
        if turns and before < waiting < MAX_GROUP:
            loop.call_soon(self._schedule_commit, loop, waiting, turns - 1)
        else:
            self._commands.put("commit")

    def _write(self) -> None:
        # One group a command: the loop answers, and gathers the next group, in between.
        while self._commands.get() == "commit":
            self._commit(self._next_group())
        while group := self._next_group():
            self._commit(group)
        if self._file is not None:
            self._file.close()

    def _open_file(self) -> sqlite3.Connection:
        self._file = open_for_inserts(self._path)
        self._identity = self._identity or file_identity(self._path)
        return self._file

    def _next_group(self) -> list[PendingWrite]:
        group: list[PendingWrite] = []
        left = MAX_GROUP_BYTES
        while self._waiting and len(group) < MAX_GROUP and (not group or self._waiting[0][2] <= left):
            group.append(self._waiting.popleft())
            left -= group[-1][2]
        while len(group) > fitting_group(len(group)):
            self._waiting.appendleft(group.pop())
        return group

    def _commit(self, group: list[PendingWrite]) -> None:
        kept: list[Kept] | None = None
        size = sum(size for _, _, size in group)
        try:
            kept = self._insert_group(group, size)
        # The thread has to survive any error: without it every request would wait for ever.
        except Exception as error:  # noqa: BLE001
            self._record_failure(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing awaits the futures
            group[0][1].get_loop().call_soon_threadsafe(self._resolve_futures, group, kept)
        if kept is not None:
            for callback in self._on_commit:
                callback()
            if self._file is not None:
                self._checkpointer.after_commit(self._file, size)

    def _insert_group(self, group: list[PendingWrite], size: int) -> list[Kept]:
        started = time.perf_counter()
        rows = [row for row, _, _ in group if row is not None]
        file = self._file or self._open_file()
        is_probed = len(rows) < len(group)
        has_room = self._reserve.has_room(size)
        kept = insert_new(file, rows) if has_room and not is_probed else None
        if kept is None:  # little room, a probe, a duplicate, or too many rows
            execute_with_retry(file, "BEGIN IMMEDIATE")
            if not has_room:  # under the lock, so that no other process takes the same room
                self._reserve.reserve(file, size)
            kept = upsert_rows(file, rows)
            if is_probed:
                file.execute(PROBE, (time.time(),))
            file.execute("COMMIT")
        if self.is_replaced():
            raise InboxUnavailable(REPLACED)
        hit(Failpoint.KEPT)
        self._record_success(kept, time.perf_counter() - started)
        results = iter(kept)
        return [PROBED if row is None else next(results) for row, _, _ in group]

    def _resolve_futures(self, group: list[PendingWrite], kept: list[Kept] | None) -> None:
        """Resolve the futures of a group, in the event loop, and schedule the next commit if anything waits."""
        for index, (_, future, size) in enumerate(group):
            self._waiting_bytes -= size
            if future.done():  # its request was cancelled
                continue
            if kept is None:
                future.set_exception(InboxUnavailable())
            else:
                future.set_result(kept[index])
        self._is_scheduled = bool(self._waiting)
        if self._is_scheduled:
            self._schedule_commit(asyncio.get_running_loop(), 0, GATHER_TURNS)

    def _record_success(self, kept: list[Kept], seconds: float) -> None:
        repeated = sum(one.duplicate for one in kept)
        self._metrics.committed(kept=len(kept) - repeated, repeated=repeated, seconds=seconds)
        if self.problem is not None:
            self.problem = None
            log.info("inbox.recovered")

    def _record_failure(self, error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        if problem != self.problem:
            self.problem = problem
            log.error("inbox.failed", error=problem)
        self._metrics.commit_failed()
        while is_corruption(error) and self._on_corruption:
            self._on_corruption.pop()()
        if self._file is None:
            return
        with contextlib.suppress(sqlite3.Error):
            self._file.rollback()
            if isinstance(error, InboxUnavailable) or getattr(error, "sqlite_errorcode", 0) & 0xFF in TRANSIENT_ERRORS:
                return
        with contextlib.suppress(sqlite3.Error):
            self._file.close()
        self._file = None
