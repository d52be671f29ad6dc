"""The relay's side of the inbox file: what waits, what is in Redis, and what is settled and may go.

request -> envelope -> inbox -> [outbox] -> relay -> process -> handler -> ledger
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest.batch import Delivery, moment
from ingest.inboxfile import inbox_id, open_inbox_file

# What waits for an answer, with how often it was received; this connection's own.
OUTGOING = """
CREATE TEMP VIEW outgoing AS
SELECT
    seq, id, kind, event, session_id, received_at, signed_with, signed_at, headers, body,
    coalesce((SELECT receipts FROM seen WHERE seen.id = deliveries.id), 1) AS receipts,
    queue, batch, deaths
FROM deliveries
"""

ASSIGN = "UPDATE deliveries SET batch = ?, offered_at = ? WHERE seq IN (SELECT value FROM json_each(?))"
SETTLE = "DELETE FROM deliveries WHERE batch IN (SELECT value FROM json_each(?))"

# Seconds.
LOCK_TIMEOUT = 5.0
LOCK_POLL = 0.0003
# Where queue, batch and deaths stand in it.
QUEUE = 11


@dataclass(frozen=True, slots=True)
class Load:
    """Deliveries of one queue that fit into one batch, oldest first, with their row numbers."""

    queue: str
    seqs: tuple[int, ...]
    deliveries: tuple[Delivery, ...]
    is_full: bool
    """A limit was met: there may be more."""

    @property
    def bytes(self) -> int:
        """Add up the bodies."""
        return sum(len(delivery.body or b"") for delivery in self.deliveries)

    def halves(self) -> "tuple[Load, Load]":
        """Cut the load in two."""
        cut = len(self.seqs) // 2
        return self._part(slice(None, cut)), self._part(slice(cut, None))

    def _part(self, which: slice) -> "Load":
        return Load(self.queue, self.seqs[which], self.deliveries[which], is_full=False)


@dataclass(frozen=True, slots=True)
class InFlight:
    """A batch that was handed to Redis and is not settled; `deaths` is how often its one delivery died alone."""

    batch_id: str
    queue: str
    offered_at: datetime | None
    count: int
    bytes: int
    deaths: int


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A delivery that the ledger need not know yet, and the batch that it travels in, if any."""

    delivery: Delivery
    queue: str
    batch_id: str | None
    deaths: int


class Outbox:
    """One connection to the inbox file, for one thread at a time; any number of processes may have their own.

    All methods raise sqlite3.Error if the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_inbox_file(path)
        self._file.row_factory = None
        # What is written here may be lost with the machine's power: a batch offered or settled twice is harmless.
        # So the lock, which the door waits for, is held without an fsync.
        self._file.execute("PRAGMA synchronous = NORMAL")
        self._file.execute("PRAGMA busy_timeout = 0")
        self._file.execute(OUTGOING)
        self.inbox_id = inbox_id(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def data_version(self) -> int:
        """Tell a number that changes when another connection has committed."""
        (version,) = self._file.execute("PRAGMA data_version").fetchone()
        return int(version)

    def oldest_waiting_at(self, queue: str) -> datetime | None:
        """Tell when the first delivery that waits for the queue was received."""
        found = self._file.execute(
            "SELECT received_at FROM deliveries WHERE batch IS NULL AND queue = ? ORDER BY seq LIMIT 1", (queue,)
        ).fetchone()
        return moment(found[0]) if found else None

    def waiting_count(self) -> int:
        """Count what waits for any queue."""
        (count,) = self._file.execute("SELECT count(*) FROM deliveries WHERE batch IS NULL").fetchone()
        return int(count)

    def next(self, queue: str, limit: int, size: int) -> Load:
        """Read what waits for the queue, oldest first: at most `limit` deliveries of `size` bytes, but at least one."""
        rows = self._file.execute(
            "SELECT * FROM outgoing WHERE batch IS NULL AND queue = ? ORDER BY seq LIMIT ?", (queue, limit)
        )
        seqs: list[int] = []
        deliveries: list[Delivery] = []
        for row in rows:
            delivery = self._delivery(row)
            size -= len(delivery.body or b"")
            if size < 0 and seqs:
                rows.close()
                break
            seqs.append(row[0])
            deliveries.append(delivery)
        return Load(queue, tuple(seqs), tuple(deliveries), is_full=size < 0 or len(seqs) == limit)

    def assign(self, batches: Iterable[tuple[str, Sequence[int]]]) -> None:
        """Note which rows travel in which batch, on disk before anything of it is in Redis."""
        now = time.time()
        for batch_id, seqs in batches:
            self._write(ASSIGN, (batch_id, now, json.dumps(seqs)))

    def recounted(self, deliveries: tuple[Delivery, ...]) -> tuple[Delivery, ...]:
        """Bring the notices of repeats among them up to date.

        While a notice waits it stands for what still comes; so only what is read once it has a batch leaves none out.
        """
        notices = [delivery.id for delivery in deliveries if delivery.body is None]
        if not notices:
            return deliveries
        found = self._file.execute(
            "SELECT id, receipts FROM seen WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(notices),)
        )
        receipts = dict(found.fetchall())
        return tuple(
            replace(each, receipts=receipts.get(each.id, each.receipts)) if each.body is None else each
            for each in deliveries
        )

    def settle(self, batch_ids: Sequence[str]) -> int:
        """Delete the rows of these batches; tell how many went."""
        return self._write(SETTLE, (json.dumps(batch_ids),))

    def in_flight(self) -> list[InFlight]:
        """List the batches that are not settled, oldest first."""
        rows = self._file.execute(
            "SELECT batch, queue, min(offered_at), count(*), coalesce(sum(length(body)), 0), max(deaths)"
            " FROM deliveries WHERE batch IS NOT NULL GROUP BY batch, queue ORDER BY min(seq)"
        )
        return [
            InFlight(batch_id, queue, moment(offered_at), count, size, deaths)
            for batch_id, queue, offered_at, count, size, deaths in rows
        ]

    def rows(self, batch_id: str) -> Load:
        """Read what travels in the batch; an empty load if all of it is settled."""
        rows = self._file.execute("SELECT * FROM outgoing WHERE batch = ? ORDER BY seq", (batch_id,)).fetchall()
        queue = rows[0][QUEUE] if rows else ""
        return Load(queue, tuple(row[0] for row in rows), tuple(map(self._delivery, rows)), is_full=False)

    def split(self, batch_id: str, parts: Sequence[tuple[str, Sequence[int]]], *, deaths: int) -> None:
        """Move the rows of a batch into others in one step, so that none of them is ever without a batch."""
        with self._transaction():
            self._file.execute("UPDATE deliveries SET deaths = ? WHERE batch = ?", (deaths, batch_id))
            self._file.executemany(ASSIGN, [(part_id, time.time(), json.dumps(seqs)) for part_id, seqs in parts])

    def release(self, batch_ids: Sequence[str]) -> None:
        """Let the rows of these batches wait again."""
        with self._transaction():
            for batch_id in batch_ids:
                # A repeat that waits already stands for this one: it tells the number of receipts when it is offered.
                self._file.execute("UPDATE OR IGNORE deliveries SET batch = NULL WHERE batch = ?", (batch_id,))
                self._file.execute("DELETE FROM deliveries WHERE batch = ?", (batch_id,))

    def oldest_unsettled_at(self) -> datetime | None:
        """Tell when the oldest delivery that is not settled was received."""
        found = self._file.execute("SELECT received_at FROM deliveries ORDER BY seq LIMIT 1").fetchone()
        return moment(found[0]) if found else None

    def unsettled(self, delivery_id: str | None = None, *, limit: int = 1000) -> list[Unsettled]:
        """List what is not settled, newest first, without the notices of repeats; or only the delivery of this id."""
        rows = self._file.execute(
            "SELECT * FROM outgoing WHERE body IS NOT NULL AND (id = :id OR :id IS NULL)"
            " ORDER BY seq DESC LIMIT :limit",
            {"id": delivery_id, "limit": limit},
        )
        return [Unsettled(self._delivery(row), *row[QUEUE:]) for row in rows]

    def forget(self, before: datetime, *, after: str = "", limit: int = 500) -> str | None:
        """Forget deliveries first seen before then, some at a time: returns the id to go on after, None at the end."""
        rows = self._file.execute(
            "SELECT id FROM seen WHERE id > ? AND first_at < ? ORDER BY id LIMIT ?", (after, before.timestamp(), limit)
        )
        # Looked for outside the transaction: the table is long and the door waits for the lock.
        ids = [found for (found,) in rows]
        if ids:
            self._write("DELETE FROM seen WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),))
        return ids[-1] if len(ids) == limit else None

    def _delivery(self, row: tuple[Any, ...]) -> Delivery:
        _, id_, kind, event, session_id, received_at, signed_with, signed_at, headers, body, receipts, *_ = row
        return Delivery(
            id_,
            kind,
            event,
            session_id,
            datetime.fromtimestamp(received_at, UTC),
            signed_with,
            moment(signed_at),
            json.loads(headers),
            body,
            receipts,
            self.inbox_id,
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._write("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._file.rollback()
            raise
        self._file.execute("COMMIT")

    def _write(self, statement: str, values: tuple[str | float, ...] = ()) -> int:
        """Write in one step, in which no other thread of this process can make the lock last longer; count the rows.

        A busy door leaves the lock for a moment between two commits. SQLite's own waiting sleeps ever longer and
        misses those moments for seconds.
        """
        until = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                return self._file.execute(statement, values).rowcount
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(LOCK_POLL)
