"""Signs of life of the door in its inbox file, and the gaps between them: when nothing could be kept here.

All processes of one data folder give the same sign, so one that is started again while another serves leaves no gap.
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
from ingest.inbox.background_writes import open_for_background_writes, transaction
from ingest.inbox.downtime import record_downtime
from ingest.inbox.inbox import Inbox

log = structlog.get_logger()

# Seconds.
HEARTBEAT_INTERVAL = 1.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment by the clock, which people set, and since the machine was started, which nobody can."""

    at: float
    boot: str | None = None
    """Which start of the machine; None if it does not say."""
    since_boot: float = 0.0

    @classmethod
    def now(cls) -> "Instant":
        """Look at both clocks."""
        try:  # Linux; time in which the machine was asleep counts
            return cls(time.time(), BOOT_ID.read_text("ascii").strip(), time.clock_gettime(time.CLOCK_BOOTTIME))
        except (OSError, AttributeError):
            return cls(time.time())

    @classmethod
    def from_json(cls, text: str) -> "Instant | None":
        """Read one that was written, by any release; None if that cannot be done."""
        try:
            fields = json.loads(text)
            return cls(float(fields["at"]), fields.get("boot"), float(fields.get("since_boot", 0.0)))
        except (TypeError, ValueError, LookupError):
            return None

    def seconds_since(self, before: "Instant") -> float:
        """Tell how long ago that was; below zero if the clock was set back and nothing else is known."""
        if self.boot is not None and self.boot == before.boot:
            return self.since_boot - before.since_boot
        return self.at - before.at


class Heartbeat:
    """Gives a sign of life while something can be kept, and measures the gap before each one.

    A door that answers 503 for an hour has a gap of an hour, like one that is closed.
    """

    def __init__(self, path: Path, inbox: Inbox, shortest_gap: timedelta) -> None:
        self._path = path
        self._inbox = inbox
        self._shortest = shortest_gap.total_seconds()
        self._file: sqlite3.Connection | None = None
        self._problem: str | None = None
        self._stopped = False
        self._lock = threading.Lock()

    async def run(self) -> None:
        """Give signs until cancelled."""
        while True:
            if await self._can_keep():
                await asyncio.to_thread(self._beat_or_log)
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    def beat_last(self) -> None:
        """Give the last sign, after the last connection was taken; a busy door may keep it waiting for seconds."""
        if self._inbox.problem is None:
            self._beat_or_log()
        self._stopped = True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._stopped = True
            self._close_file()

    async def _can_keep(self) -> bool:
        if self._inbox.problem is not None:
            with contextlib.suppress(InboxUnavailable):
                await self._inbox.probe()
        return self._inbox.problem is None

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
                log.warning("presence.not_signed", error=problem)
            self._problem = problem

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _beat(self, now: Instant) -> None:
        if self._file is None:
            # A sign need not be on the disk at once: what is lost only makes the gap longer.
            self._file = open_for_background_writes(self._path)
        with transaction(self._file):
            found = self._file.execute("SELECT value FROM meta WHERE name = 'alive'").fetchone()
            before = Instant.from_json(found[0]) if found else None
            seconds = 0.0 if before is None else now.seconds_since(before)
            if seconds >= self._shortest:
                record_downtime(self._file, closed_at=now.at - seconds, opened_at=now.at)
            self._file.execute("INSERT OR REPLACE INTO meta VALUES ('alive', ?)", (json.dumps(asdict(now)),))
        if seconds >= self._shortest:
            log.warning("door.was_closed", seconds=round(seconds, 1))
        elif seconds < -self._shortest:
            log.warning("door.gap_not_measured", reason="the clock was set back while the machine was restarted")
        elif found and before is None:
            log.warning("door.gap_not_measured", reason="the last sign of life cannot be read")
