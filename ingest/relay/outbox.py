"""The relay's side of the inbox file: what waits, what is in Redis, and what is settled and may go.

request -> envelope -> inbox -> [outbox] -> relay -> process -> handler -> ledger
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest.inbox.downtime import Downtime, list_downtimes
from ingest.inbox.schema import inbox_id
from ingest.inbox.write_lock import ROW_BYTES, Checkpointer, execute_with_retry, open_for_background_writes, transaction
from ingest.queue.batch import Delivery, timestamp_or_none

# What waits for an answer, with how often it was received: at least twice, if that is forgotten and this is the notice
# of a repeat. This connection's own.
OUTGOING = """
CREATE TEMP VIEW outgoing AS
SELECT
    seq, id, kind, event, session_id, received_at, signed_with, signed_at, headers, body,
    coalesce((SELECT receipts FROM seen WHERE seen.id = deliveries.id), 1 + (body IS NULL)) AS receipts,
    queue, batch, deaths
FROM deliveries
"""

# What the relay itself reads comes as one row of JSON: the interpreter lock is given away for each row, and beside a
# busy door the wait to get it back is longer than all that SQLite does. Nor is a delivery made an object here.
SIZED = "SELECT seq, coalesce(length(body), 0) AS size FROM deliveries"
LISTED = "SELECT json_group_array(json_array(seq, size)) FROM"
NEXT = f"""
{LISTED} (
    SELECT seq, size, sum(size) OVER (ORDER BY seq) AS total
    FROM ({SIZED} WHERE batch IS NULL AND queue = :queue ORDER BY seq LIMIT :limit)
) WHERE total <= :size OR total = size
"""  # noqa: S608 - put together from parts of our own
ROWS = f"{LISTED} ({SIZED} WHERE batch = ? ORDER BY seq)"
# As `Batch.from_json` reads it. Times to the microsecond: SQLite would cut them after 15 digits.
PACKED = """
SELECT
    json_group_array(json_array(coalesce(event, kind), body IS NULL)),
    min(session_id),
    CAST(json_group_array(json_object(
        'id', id, 'kind', kind, 'event', event, 'session_id', session_id,
        'received_at', json(printf('%!.6f', received_at)),
        'signed_with', signed_with,
        'signed_at', CASE WHEN signed_at IS NULL THEN NULL ELSE json(printf('%!.6f', signed_at)) END,
        'headers', json(headers),
        'body_hex', CASE WHEN body IS NULL THEN NULL ELSE hex(body) END,
        'receipts', receipts
    )) AS BLOB)
FROM (SELECT * FROM outgoing WHERE batch = ? ORDER BY seq)
"""

# What came again says nothing of whether its body is still here.
SETTLED = """
SELECT id FROM seen WHERE id > ? AND id NOT IN (SELECT id FROM deliveries WHERE body IS NOT NULL) ORDER BY id LIMIT ?
"""

ASSIGN = "UPDATE deliveries SET batch = ?, offered_at = ? WHERE seq IN (SELECT value FROM json_each(?))"
RELEASE = "UPDATE OR IGNORE deliveries SET batch = NULL WHERE batch = ?"
SETTLE = "DELETE FROM deliveries WHERE batch IN (SELECT value FROM json_each(?))"

# Where queue, batch and deaths stand in it.
QUEUE = 11


@dataclass(frozen=True, slots=True)
class OutboxSlice:
    """Rows of one queue that fit into one batch, oldest first, by their numbers and the bytes of their bodies."""

    queue: str
    seqs: tuple[int, ...]
    sizes: tuple[int, ...]
    is_full: bool
    """A limit was met: there may be more."""

    @property
    def bytes(self) -> int:
        """Add up the bodies."""
        return sum(self.sizes)

    def split(self) -> "tuple[OutboxSlice, OutboxSlice]":
        """Cut the load in two."""
        cut = len(self.seqs) // 2
        return self._part(slice(None, cut)), self._part(slice(cut, None))

    def _part(self, which: slice) -> "OutboxSlice":
        return OutboxSlice(self.queue, self.seqs[which], self.sizes[which], is_full=False)


@dataclass(frozen=True, slots=True)
class BatchPayload:
    """What travels in a batch, ready for Redis."""

    names: tuple[tuple[str, bool], ...]
    """What each delivery is called, and whether it only tells that it came again."""
    session_id: str | None
    """A session that one of them is about."""
    deliveries: bytes
    """As JSON."""


@dataclass(frozen=True, slots=True)
class InFlightBatch:
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
        # What is lost with the machine's power is harmless: a batch is offered or settled twice.
        self._file = open_for_background_writes(path)
        self._file.execute(OUTGOING)
        self._checkpointer = Checkpointer(path)
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
        return timestamp_or_none(found[0]) if found else None

    def waiting_count(self) -> int:
        """Count what waits for any queue."""
        (count,) = self._file.execute("SELECT count(*) FROM deliveries WHERE batch IS NULL").fetchone()
        return int(count)

    def next_batch(self, queue: str, limit: int, size: int) -> OutboxSlice:
        """Find what waits for the queue, oldest first: at most `limit` deliveries of `size` bytes, but at least one."""
        load = self._load(queue, NEXT, {"queue": queue, "limit": limit, "size": size})
        is_full = len(load.seqs) == limit or (bool(load.seqs) and self._waits_after(queue, load.seqs[-1]))
        return replace(load, is_full=is_full)

    def assign(self, batches: Iterable[tuple[str, OutboxSlice]]) -> None:
        """Record which rows travel in which batch, before anything of it is in Redis."""
        now = time.time()
        for batch_id, rows in batches:
            execute_with_retry(self._file, ASSIGN, (batch_id, now, json.dumps(rows.seqs)))
            self._checkpointer.after_commit(self._file, rows.bytes + len(rows.seqs) * ROW_BYTES)

    def settle(self, batch_ids: Sequence[str]) -> int:
        """Delete the rows of these batches; return how many there were."""
        count = execute_with_retry(self._file, SETTLE, (json.dumps(batch_ids),))
        self._checkpointer.after_commit(self._file, count * ROW_BYTES)
        return count

    def in_flight(self) -> list[InFlightBatch]:
        """List the batches that are not settled, oldest first."""
        rows = self._file.execute(
            "SELECT batch, queue, min(offered_at), count(*), coalesce(sum(length(body)), 0), max(deaths)"
            " FROM deliveries WHERE batch IS NOT NULL GROUP BY batch, queue ORDER BY min(seq)"
        )
        return [
            InFlightBatch(batch_id, queue, timestamp_or_none(offered_at), count, size, deaths)
            for batch_id, queue, offered_at, count, size, deaths in rows
        ]

    def rows_of(self, batch_id: str) -> OutboxSlice:
        """Find what travels in the batch; an empty load if all of it is settled."""
        found = self._file.execute("SELECT queue FROM deliveries WHERE batch = ? LIMIT 1", (batch_id,)).fetchone()
        return self._load(found[0] if found else "", ROWS, (batch_id,))

    def payload(self, batch_id: str) -> BatchPayload:
        """Read what travels in the batch.

        A notice of repeats stands for what still comes while it waits; so only what is read now, when it has a batch,
        leaves none out.
        """
        names, session_id, deliveries = self._file.execute(PACKED, (batch_id,)).fetchone()
        return BatchPayload(tuple((name, bool(again)) for name, again in json.loads(names)), session_id, deliveries)

    def split(self, batch_id: str, parts: Sequence[tuple[str, OutboxSlice]], *, deaths: int) -> None:
        """Move the rows of a batch into others in one transaction, so that each row always has a batch."""
        with transaction(self._file):
            self._file.execute("UPDATE deliveries SET deaths = ? WHERE batch = ?", (deaths, batch_id))
            self._file.executemany(ASSIGN, [(part_id, time.time(), json.dumps(rows.seqs)) for part_id, rows in parts])
        self._checkpointer.after_commit(self._file, sum(rows.bytes + len(rows.seqs) * ROW_BYTES for _, rows in parts))

    def release(self, batch_ids: Sequence[str]) -> None:
        """Let the rows of these batches wait again."""
        count = 0
        with transaction(self._file):
            for batch_id in batch_ids:
                # A duplicate notice that waits already stands for this one: it counts receipts when it is published.
                released = self._file.execute(RELEASE, (batch_id,))
                count += released.rowcount
                self._file.execute("DELETE FROM deliveries WHERE batch = ?", (batch_id,))
        self._checkpointer.after_commit(self._file, count * ROW_BYTES)

    def gaps(self) -> list[Downtime]:
        """List the times in which nothing could be kept here, the oldest first."""
        return list_downtimes(self._file, self.inbox_id)

    def unsettled(self, delivery_id: str | None = None, *, limit: int = 1000) -> list[Unsettled]:
        """List what is not settled, newest first, without the notices of repeats; or only the delivery of this id."""
        rows = self._file.execute(
            "SELECT * FROM outgoing WHERE body IS NOT NULL AND (id = :id OR :id IS NULL)"
            " ORDER BY seq DESC LIMIT :limit",
            {"id": delivery_id, "limit": limit},
        )
        return [Unsettled(self._delivery(row), *row[QUEUE:]) for row in rows]

    def settled(self, *, after: str = "", limit: int = 10_000) -> list[str]:
        """List ids of what was kept here and has gone from here, as it is settled: some at a time, those `after` one.

        Takes no lock. Once an id is here, it stays so for as long as the inbox knows it.
        """
        return [found for (found,) in self._file.execute(SETTLED, (after, limit))]

    def prune_seen(self, before: datetime, *, after: str = "", limit: int = 500) -> str | None:
        """Forget deliveries first seen before then, some at a time: returns the id to go on after, None at the end."""
        rows = self._file.execute(
            "SELECT id FROM seen WHERE id > ? AND first_at < ? ORDER BY id LIMIT ?", (after, before.timestamp(), limit)
        )
        # Looked for outside the transaction: the table is long and the door waits for the lock.
        ids = [found for (found,) in rows]
        if ids:
            execute_with_retry(
                self._file, "DELETE FROM seen WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
            )
            self._checkpointer.after_commit(self._file, len(ids) * ROW_BYTES)
        return ids[-1] if len(ids) == limit else None

    def _load(self, queue: str, statement: str, values: Any) -> OutboxSlice:
        (listed,) = self._file.execute(statement, values).fetchone()
        rows = json.loads(listed)
        return OutboxSlice(queue, tuple(seq for seq, _ in rows), tuple(size for _, size in rows), is_full=False)

    def _waits_after(self, queue: str, seq: int) -> bool:
        found = self._file.execute(
            "SELECT 1 FROM deliveries WHERE batch IS NULL AND queue = ? AND seq > ? LIMIT 1", (queue, seq)
        )
        return found.fetchone() is not None

    def _delivery(self, row: tuple[Any, ...]) -> Delivery:
        _, id_, kind, event, session_id, received_at, signed_with, signed_at, headers, body, receipts, *_ = row
        return Delivery(
            id_,
            kind,
            event,
            session_id,
            datetime.fromtimestamp(received_at, UTC),
            signed_with,
            timestamp_or_none(signed_at),
            json.loads(headers),
            body,
            receipts,
            self.inbox_id,
        )
