"""The quarantine: requests that were refused, bounded, for a person to inspect and to verify again."""

import contextlib
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from ingest.config.settings import Settings
from ingest.errors import InboxUnavailable, Refusal
from ingest.inbox.disk_reserve import DiskReserve
from ingest.inbox.quarantined_request import QuarantinedRequest, from_row
from ingest.inbox.rows import Kept, open_for_inserts, row_of, upsert_rows
from ingest.inbox.write_lock import Checkpointer, transaction
from ingest.metrics import Metrics
from ingest.wire.envelope import Envelope, Kind, headers_to_keep
from ingest.wire.field_paths import header_names
from ingest.wire.signature import SigningKeys

log = structlog.get_logger()

# Between two commits, which take turns with those of the inbox. Requests that arrive faster evict those that wait.
PAUSE = timedelta(milliseconds=250)
MAX_QUEUE = 500
MAX_QUEUE_BYTES = 4_194_304
# Between two deletions of expired requests while none arrives.
EXPIRY = timedelta(hours=1)

DROPPED = "quarantine_dropped"
INSERT = "INSERT INTO quarantine (kind, received_at, reason, headers, body) VALUES (?, ?, ?, ?, ?)"
SELECT = "SELECT seq, kind, received_at, reason, headers, body FROM quarantine WHERE received_at >= ? ORDER BY seq"
EXPIRE = "DELETE FROM quarantine WHERE received_at < ?"
EVICT = """
DELETE FROM quarantine WHERE seq <= (
    SELECT max(seq) FROM (
        SELECT seq, row_number() OVER newest_first AS place,
            sum(length(headers) + length(body)) OVER newest_first AS bytes
        FROM quarantine WINDOW newest_first AS (ORDER BY seq DESC)
    ) WHERE place > ? OR bytes > ?
)
"""
COUNT_DROPPED = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"


@dataclass(frozen=True)
class Verification:
    """What verifying a request again would do."""

    request: QuarantinedRequest
    envelope: Envelope | None
    """None if it fails."""
    reason: str | None
    """Why it fails; None if it passes."""


@dataclass(frozen=True)
class Reverified:
    """The outcome of a request that was verified again."""

    request: QuarantinedRequest
    kept: Kept | None
    """The delivery that it became; None if it failed."""
    reason: str | None
    """Why it failed; None if it passed."""


class Quarantine:
    """Reads and writes the requests in quarantine. Each method opens the file; all raise InboxUnavailable."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._reserve = DiskReserve(path, settings)
        self._checkpointer = Checkpointer(path)

    def add(self, requests: Sequence[QuarantinedRequest], *, dropped: int = 0) -> int:
        """Insert requests, and delete the oldest ones beyond the limits of age, count and bytes.

        Return how many were deleted plus `dropped`, as `dropped()` counts them. DISK_RESERVE applies: deliveries come
        first.
        """
        size = sum(one.size for one in requests)
        rows = [(one.kind, one.received_at.timestamp(), one.reason, one.headers_text, one.body) for one in requests]
        with self._opened() as file:
            with transaction(file):
                if requests:
                    self._reserve.reserve(file, size)
                file.executemany(INSERT, rows)
                oldest_at = datetime.now(UTC) - self._settings.quarantine_age
                dropped += file.execute(EXPIRE, (oldest_at.timestamp(),)).rowcount
                limits = (self._settings.quarantine_count, self._settings.quarantine_bytes)
                dropped += file.execute(EVICT, limits).rowcount
                if dropped:
                    file.execute(COUNT_DROPPED, (DROPPED, dropped))
            self._checkpointer.after_commit(file, size)
        return dropped

    def dropped(self) -> int:
        """Return how many requests have been dropped ever, for lack of room or for their age."""
        with self._opened() as file:
            found = file.execute("SELECT value FROM meta WHERE name = ?", (DROPPED,)).fetchone()
        return int(found[0]) if found else 0

    def list(self, since: datetime | None = None) -> list[QuarantinedRequest]:
        """List the requests in the order of arrival."""
        with self._opened() as file:
            return _select(file, since)

    def reverify(
        self, keys: SigningKeys, since: datetime | None = None, *, kind: Kind | None = None
    ) -> Iterator[Reverified]:
        """Verify again with these keys and the current settings, in the order of arrival; yield each outcome.

        A request that passes moves to the inbox in one transaction, with its time of arrival. One that came to a wrong
        path passes only as a given `kind`.
        """
        with self._opened() as file:
            for each in self._verify(_select(file, since), keys, kind):
                if each.envelope is None:
                    yield Reverified(each.request, None, each.reason)
                    continue
                with transaction(file):
                    (kept,) = upsert_rows(file, [row_of(each.envelope, self._settings.redaction)])
                    file.execute("DELETE FROM quarantine WHERE seq = ?", (each.request.seq,))
                self._checkpointer.after_commit(file, each.request.size)
                yield Reverified(each.request, kept, None)

    def preview(
        self, keys: SigningKeys, since: datetime | None = None, *, kind: Kind | None = None
    ) -> Iterator[Verification]:
        """Yield what `reverify` would do with each request, and do nothing."""
        yield from self._verify(self.list(since), keys, kind)

    def _verify(
        self, requests: Iterable[QuarantinedRequest], keys: SigningKeys, kind: Kind | None
    ) -> Iterator[Verification]:
        required, sources = self._settings.plugsurfing_hmac_required, self._settings.plugsurfing_sources
        keeping = headers_to_keep(header_names(self._settings.cdr_request_id))
        for request in requests:
            try:
                envelope = request.reverify(
                    keys, signature_required=required, keeping=keeping, sources=sources, kind=kind
                )
            except Refusal as error:
                yield Verification(request, None, str(error))
            else:
                yield Verification(request, envelope, None)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(open_for_inserts(self._path)) as file:
                yield file
        except (sqlite3.Error, OSError) as error:
            raise InboxUnavailable(f"The inbox file cannot be used ({type(error).__name__}: {error}).") from error


def _select(file: sqlite3.Connection, since: datetime | None) -> list[QuarantinedRequest]:
    rows = file.execute(SELECT, (since.timestamp() if since else 0,))
    return [from_row(row) for row in rows]


class QuarantineWriter:
    """Writes refused requests to quarantine in a thread of its own, so that no response waits for it."""

    def __init__(self, quarantine: Quarantine, metrics: Metrics) -> None:
        self._quarantine = quarantine
        self._metrics = metrics
        self._queue: deque[QuarantinedRequest] = deque()
        self._bytes = 0
        self._dropped = 0
        self._problem: str | None = None
        self._gate = threading.Lock()
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write, name="quarantine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._ending.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    def enqueue(self, request: QuarantinedRequest) -> None:
        """Queue a request for the thread. If too many wait, the oldest are dropped and counted."""
        with self._gate:
            self._queue.append(request)
            self._bytes += request.size
            self._evict()
        self._woken.set()

    def _write(self) -> None:
        while not self._ending.is_set():
            self._woken.wait((PAUSE if self._queue else EXPIRY).total_seconds())
            self._woken.clear()
            self._write_once()
            self._ending.wait(PAUSE.total_seconds())
        self._write_once()

    def _write_once(self) -> None:
        with self._gate:
            requests, dropped = list(self._queue), self._dropped
            self._queue.clear()
            self._bytes = self._dropped = 0
        try:
            dropped = self._quarantine.add(requests, dropped=dropped)
        # The thread has to survive any error: without it nobody would see what is refused from then on.
        except Exception as error:  # noqa: BLE001
            problem = str(error) if isinstance(error, InboxUnavailable) else type(error).__name__
            if problem != self._problem:
                self._problem = problem
                log.warning("quarantine.failed", error=problem)
            self._requeue(requests, dropped)
            return
        self._problem = None
        self._metrics.quarantined(entered=len(requests), dropped=dropped)
        if requests:
            reasons = Counter(request.reason for request in requests)
            log.warning("requests.quarantined", count=len(requests), dropped=dropped, reasons=dict(reasons))

    def _requeue(self, requests: list[QuarantinedRequest], dropped: int) -> None:
        with self._gate:
            self._queue.extendleft(reversed(requests))
            self._bytes += sum(request.size for request in requests)
            self._dropped += dropped
            self._evict()

    def _evict(self) -> None:
        while len(self._queue) > 1 and (len(self._queue) > MAX_QUEUE or self._bytes > MAX_QUEUE_BYTES):
            self._bytes -= self._queue.popleft().size
            self._dropped += 1
