"""The local list of deliveries, on disk before they are answered.

request -> envelope -> [inbox] -> relay -> process -> handler -> ledger
"""

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

import structlog

from ingest.config.settings import Settings
from ingest.errors import InboxUnavailable
from ingest.failpoints import Failpoint, hit
from ingest.inbox.corruption import is_corruption, lock_and_check
from ingest.inbox.disk_reserve import DiskReserve
from ingest.inbox.rows import Kept, Row, insert_new, open_for_keeping, row_of, upsert_rows
from ingest.metrics import Metrics
from ingest.wire.envelope import Envelope

log = structlog.get_logger()

# Most deliveries of one commit: it holds the lock that the relay and other processes wait for. And most bytes, unless
# one alone has more: they make the log of the file longer for good.
MAX_GROUP = 1000
LARGEST_GROUP_BYTES = 4_194_304
# Most turns of the loop in which a group may grow before it is written. What comes together is rarely read in one turn.
GATHER_TURNS = 3
# What a waiting delivery takes in memory beside its body, in bytes.
OVERHEAD = 2000
# After these the connection is as good as before: there was no room, or it was not our turn.
TRANSIENT_ERRORS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
PROBE = "INSERT OR REPLACE INTO meta VALUES ('probed_at', ?)"
# What a probe is told: nothing was kept, but it could have been.
PROBED = Kept("", duplicate=False)


class WriterCommand(Enum):
    """What the loop tells the writing thread."""

    COMMIT = auto()
    """Something waits."""
    END = auto()
    """Nothing comes any more: commit what waits, and end."""


PendingWrite: TypeAlias = tuple[Row | None, asyncio.Future[Kept], int]


class Inbox:
    """Keeps deliveries in the file, all that wait in one commit, in a thread of its own.

    What fails is answered with InboxUnavailable and not tried again; what comes next is. `keep` and `probe` belong to
    one event loop.
    """

    def __init__(self, path: Path, settings: Settings, metrics: Metrics | None = None) -> None:
        self._path = path
        self._max_waiting_bytes = settings.waiting_bytes
        self._reserve = DiskReserve(path, settings)
        self._metrics = metrics or Metrics()
        self._callbacks: list[Callable[[], None]] = []
        self._on_damage: list[Callable[[], None]] = []
        self._waiting: deque[PendingWrite] = deque()
        self._waiting_bytes = 0
        self._signals: SimpleQueue[WriterCommand] = SimpleQueue()
        self._signalled = False
        self._gate = threading.Lock()
        self._open = False
        self._thread = threading.Thread(target=self._write, name="inbox", daemon=True)
        self._lock: int | None = None
        self._file: sqlite3.Connection | None = None
        self.problem: str | None = None
        """Why the last commit failed; None if it did not."""

    def start(self) -> None:
        """Begin to keep. Never raises: a file that cannot be opened now is tried again with each commit."""
        try:
            self._lock = lock_and_check(self._path)
            self._file = open_for_keeping(self._path)
        except (sqlite3.Error, OSError) as error:
            self._note_failure(error)
        self._open = True
        self._thread.start()

    def close(self) -> None:
        """Commit what waits, and end. To be called by another thread than the loop's."""
        with self._gate:
            was_open, self._open = self._open, False
        if was_open:
            self._signals.put(WriterCommand.END)
            self._thread.join()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Have the callback called, in the writing thread, after each commit."""
        self._callbacks.append(callback)

    def on_damage(self, callback: Callable[[], None]) -> None:
        """Have the callback called, once, in the writing thread, when the file turns out to be damaged while in use."""
        self._on_damage.append(callback)

    def keep(self, envelope: Envelope) -> asyncio.Future[Kept]:
        """Have the envelope on disk when the future is done. Raise InboxUnavailable, here or there, if it is not."""
        return self._enqueue(row_of(envelope))

    def probe(self) -> asyncio.Future[Kept]:
        """Find out whether something could be kept, by writing to the disk what is nobody's."""
        return self._enqueue(None)

    def _enqueue(self, row: Row | None) -> asyncio.Future[Kept]:
        size = OVERHEAD + (len(row.body or b"") if row else 0)
        if self._waiting_bytes and self._waiting_bytes + size > self._max_waiting_bytes:
            raise InboxUnavailable("Too much waits for the disk.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Kept] = loop.create_future()
        with self._gate:
            if not self._open:
                raise InboxUnavailable("The inbox is closed.")
            self._waiting.append((row, future, size))
        self._waiting_bytes += size
        if not self._signalled:
            self._signalled = True
            loop.call_soon(self._schedule_commit, loop, 0, GATHER_TURNS)
        return future

    def _schedule_commit(self, loop: asyncio.AbstractEventLoop, before: int, turns: int) -> None:
        """Have written what waits once a turn of the loop has brought nothing more, or after so many turns."""
        waiting = len(self._waiting)
        if turns and before < waiting < MAX_GROUP:
            loop.call_soon(self._schedule_commit, loop, waiting, turns - 1)
        else:
            self._signals.put(WriterCommand.COMMIT)

    def _write(self) -> None:
        # One group a signal: so the loop gets to answer, and to gather the next one, in between.
        while self._signals.get() is WriterCommand.COMMIT:
            self._commit(self._next_group())
        while group := self._next_group():
            self._commit(group)
        if self._file is not None:
            self._file.close()

    def _next_group(self) -> list[PendingWrite]:
        group: list[PendingWrite] = []
        left = LARGEST_GROUP_BYTES
        while self._waiting and len(group) < MAX_GROUP and (not group or self._waiting[0][2] <= left):
            group.append(self._waiting.popleft())
            left -= group[-1][2]
        return group

    def _commit(self, group: list[PendingWrite]) -> None:
        kept: list[Kept] | None = None
        try:
            kept = self._keep(group)
        # Without this thread every request would wait for ever: whatever goes wrong, it has to go on.
        except Exception as error:  # noqa: BLE001
            self._note_failure(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            group[0][1].get_loop().call_soon_threadsafe(self._resolve_futures, group, kept)
        if kept is not None:
            for callback in self._callbacks:
                callback()

    def _keep(self, group: list[PendingWrite]) -> list[Kept]:
        started = time.perf_counter()
        rows = [row for row, _, _ in group if row is not None]
        if self._file is None:
            self._file = open_for_keeping(self._path)
        size = sum(size for _, _, size in group)
        is_probed = len(rows) < len(group)
        is_granted = self._reserve.has_room(size)
        kept = insert_new(self._file, rows) if is_granted and not is_probed else None
        if kept is None:
            self._file.execute("BEGIN IMMEDIATE")
            if not is_granted:  # now that no other process can take the same room
                self._reserve.reserve(self._file, size)
            kept = upsert_rows(self._file, rows)
            if is_probed:
                self._file.execute(PROBE, (time.time(),))
            self._file.execute("COMMIT")
        hit(Failpoint.KEPT)
        self._note_success(kept, time.perf_counter() - started)
        results = iter(kept)
        return [PROBED if row is None else next(results) for row, _, _ in group]

    def _resolve_futures(self, group: list[PendingWrite], kept: list[Kept] | None) -> None:
        """Tell a whole group how it went, in the loop, and see to what has come meanwhile."""
        for index, (_, future, size) in enumerate(group):
            self._waiting_bytes -= size
            if future.done():  # its request was given up
                continue
            if kept is None:
                future.set_exception(InboxUnavailable())
            else:
                future.set_result(kept[index])
        self._signalled = bool(self._waiting)
        if self._signalled:
            self._schedule_commit(asyncio.get_running_loop(), 0, GATHER_TURNS)

    def _note_success(self, kept: list[Kept], seconds: float) -> None:
        repeated = sum(one.duplicate for one in kept)
        self._metrics.committed(kept=len(kept) - repeated, repeated=repeated, seconds=seconds)
        if self.problem is not None:
            self.problem = None
            log.info("inbox.recovered")

    def _note_failure(self, error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        if problem != self.problem:
            self.problem = problem
            log.error("inbox.failed", error=problem)
        self._metrics.commit_failed()
        if is_corruption(error):
            while self._on_damage:
                self._on_damage.pop()()
        if self._file is None:
            return
        with contextlib.suppress(sqlite3.Error):
            self._file.rollback()
            if isinstance(error, InboxUnavailable) or getattr(error, "sqlite_errorcode", 0) & 0xFF in TRANSIENT_ERRORS:
                return
        with contextlib.suppress(sqlite3.Error):
            self._file.close()
        self._file = None
