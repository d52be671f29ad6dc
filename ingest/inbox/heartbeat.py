"""The heartbeat of `serve` in its inbox file: each beat measures the downtime since the one before it.

All processes of one data folder share the heartbeat, so a restart of one while another serves is no downtime.
"""

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from ingest.errors import InboxUnavailable
from ingest.inbox.downtime import record_downtime
from ingest.inbox.inbox import Inbox
from ingest.inbox.write_lock import ROW_BYTES, Checkpointer, open_for_background_writes, transaction

log = structlog.get_logger()

# Seconds.
HEARTBEAT_INTERVAL = 1.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Instant:
    """A time by the wall clock, which can be set, and by the seconds since boot, which cannot."""

    at: float
    boot: str | None = None
    """The id of this boot of the machine; None where the system has none."""
    since_boot: float = 0.0

    @classmethod
    def now(cls) -> "Instant":
        """Read both clocks."""
        try:  # Linux; time in which the machine was suspended counts
            return cls(time.time(), BOOT_ID.read_text("ascii").strip(), time.clock_gettime(time.CLOCK_BOOTTIME))
        except (OSError, AttributeError):
            return cls(time.time())

    @classmethod
    def from_json(cls, text: str) -> "Instant | None":
        """Parse the instant that any release wrote; return None if that fails."""
        try:
            fields = json.loads(text)
            return cls(float(fields["at"]), fields.get("boot"), float(fields.get("since_boot", 0.0)))
        except (TypeError, ValueError, LookupError):
            return None

    def seconds_since(self, before: "Instant") -> float:
        """Return the seconds between two instants; negative if the wall clock was set back across a boot."""
        if self.boot is not None and self.boot == before.boot:
            return self.since_boot - before.since_boot
        return self.at - before.at


class Heartbeat:
    """Beats while deliveries can be kept, and records the downtime before each beat.

    An hour of 503 answers is a downtime of an hour, as is an hour without a process.
    """

    def __init__(self, path: Path, inbox: Inbox, shortest_downtime: timedelta) -> None:
        self._path = path
        self._inbox = inbox
        self._shortest = shortest_downtime.total_seconds()
        self._file: sqlite3.Connection | None = None
        self._checkpointer = Checkpointer(path)
        self._problem: str | None = None
        self._stopped = False
        self._lock = threading.Lock()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            if self._inbox.problem is not None:
                with contextlib.suppress(InboxUnavailable):
                    await self._inbox.probe()
            if self._inbox.problem is None:
                await asyncio.to_thread(self._beat_or_log)
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    def beat_last(self) -> None:
        """Beat once more after the last connection was accepted. May wait for seconds while the inbox is busy."""
        if self._inbox.problem is None:
            self._beat_or_log()
        self._stopped = True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._stopped = True
            self._close_file()

    def _beat_or_log(self) -> None:
        with self._lock:
            if self._stopped:
                return
            problem = None
            try:
                self._beat(Instant.now())
            except (sqlite3.Error, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
                with contextlib.suppress(sqlite3.Error):
                    self._close_file()
            if problem is not None and problem != self._problem:
                log.warning("heartbeat.failed", error=problem)
            self._problem = problem

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _beat(self, now: Instant) -> None:
        if self._file is None:
            # A beat that a power loss undoes only makes the downtime longer.
            self._file = open_for_background_writes(self._path)
        with transaction(self._file):
            found = self._file.execute("SELECT value FROM meta WHERE name = 'alive'").fetchone()
            before = Instant.from_json(found[0]) if found else None
            seconds = 0.0 if before is None else now.seconds_since(before)
            if seconds >= self._shortest:
                record_downtime(self._file, closed_at=now.at - seconds, opened_at=now.at)
            self._file.execute("INSERT OR REPLACE INTO meta VALUES ('alive', ?)", (json.dumps(asdict(now)),))
        self._checkpointer.after_commit(self._file, ROW_BYTES)
        if seconds >= self._shortest:
            log.warning("downtime.detected", seconds=round(seconds, 1))
        elif seconds < -self._shortest:
            log.warning("downtime.unknown", reason="the clock was set back while the machine was restarted")
        elif found and before is None:
            log.warning("downtime.unknown", reason="the last heartbeat cannot be read")
