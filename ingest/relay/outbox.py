"""The outbox: the relay's view of the inbox file, with the rows that wait, are in flight or are settled.

request -> envelope -> inbox -> [outbox] -> relay -> jobs -> handler -> ledger
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest.inbox.downtime import Downtime, list_downtimes, record_downtime
from ingest.inbox.schema import inbox_id
from ingest.inbox.write_lock import ROW_BYTES, Checkpointer, execute_with_retry, open_for_background_writes, transaction
from ingest.queue.batch import Delivery, timestamp_or_none
from ingest.queue.queues import QUEUES

# Unsettled rows (the tables are in `ingest.inbox.schema`), with how often each delivery was received: at least twice if
# the row is a duplicate notice, without a body, whose delivery was pruned from `seen`.
OUTGOING = """
CREATE TEMP VIEW outgoing AS
SELECT
    seq, id, kind, event, session_id, received_at, signed_with, signed_at, headers, body,
    coalesce((SELECT receipts FROM seen WHERE seen.id = deliveries.id), 1 + (body IS NULL)) AS receipts,
    queue, batch, deaths
FROM deliveries
"""

# What the relay reads comes as one row of JSON: the interpreter lock is released for each row, and to get it back from
# a busy event loop takes longer than all that SQLite does. In NEXT `total = size` is the first row, whatever its size.
SIZED = "SELECT seq, coalesce(length(body), 0) AS size FROM deliveries"
AS_JSON = "SELECT json_group_array(json_array(seq, size)) FROM"
NEXT = f"""
{AS_JSON} (
    SELECT seq, size, sum(size) OVER (ORDER BY seq) AS total
    FROM ({SIZED} WHERE batch IS NULL AND queue = :queue ORDER BY seq LIMIT :limit)
) WHERE total <= :size OR total = size
"""  # noqa: S608 - put together from parts of our own
WAITS_AFTER = "SELECT 1 FROM deliveries WHERE batch IS NULL AND queue = ? AND seq > ? LIMIT 1"
ROWS = f"{AS_JSON} ({SIZED} WHERE batch = ? ORDER BY seq)"
# In the format of `Batch.from_json`. Times by printf, as SQLite would cut their microseconds after 15 digits.
DELIVERIES = """
    CAST(json_group_array(json_object(
        'id', id, 'kind', kind, 'event', event, 'session_id', session_id,
        'received_at', json(printf('%!.6f', received_at)),
        'signed_with', signed_with,
        'signed_at', CASE WHEN signed_at IS NULL THEN NULL ELSE json(printf('%!.6f', signed_at)) END,
        'headers', json(headers),
        'body_hex', CASE WHEN body IS NULL THEN NULL ELSE hex(body) END,
        'receipts', receipts
    )) AS BLOB)
"""
PAYLOAD = f"""
SELECT json_group_array(json_array(coalesce(event, kind), body IS NULL)), min(session_id), {DELIVERIES}
FROM (SELECT * FROM outgoing WHERE batch = ? ORDER BY seq)
"""  # noqa: S608 - put together from parts of our own
# What else is unsettled of the sessions of a batch, on whatever queue: as much of it as fits, the newest first.
READ_AHEAD = f"""
SELECT coalesce(sum(length(body)), 0), {DELIVERIES} FROM outgoing WHERE seq IN (
    SELECT seq FROM (
        SELECT seq, sum(length(body)) OVER (ORDER BY seq DESC) AS total
        FROM deliveries INDEXED BY deliveries_session
        WHERE session_id IN (SELECT session_id FROM deliveries WHERE batch = :batch AND session_id IS NOT NULL)
            AND batch IS NOT :batch AND kind = 'events' AND body IS NOT NULL
    ) WHERE total <= :size
)
"""  # noqa: S608 - as above

# A duplicate notice does not mean that the delivery itself is still unsettled.
SETTLED = """
SELECT id FROM seen WHERE id > ? AND id NOT IN (SELECT id FROM deliveries WHERE body IS NOT NULL) ORDER BY id LIMIT ?
"""

OLDEST_IN_FLIGHT = "SELECT queue, min(received_at) FROM deliveries WHERE batch IS NOT NULL GROUP BY queue"
# The reasons are few; whatever another version writes must not fill Redis.
QUARANTINED = """
SELECT substr(reason, 1, 100), count(*) FROM quarantine WHERE received_at > ? GROUP BY 1 ORDER BY 2 DESC LIMIT 20
"""

ASSIGN = "UPDATE deliveries SET batch = ?, offered_at = ? WHERE seq IN (SELECT value FROM json_each(?))"
RELEASE = "UPDATE OR IGNORE deliveries SET batch = NULL WHERE batch = ?"
SETTLING = """
SELECT id FROM deliveries WHERE batch IN (SELECT value FROM json_each(?)) AND body IS NOT NULL ORDER BY id
"""
REMEMBER = "INSERT OR IGNORE INTO seen (id, first_at) SELECT value, ? FROM json_each(?)"
# Ids of one transaction: each may be on a page of its own, and the inbox waits for the lock.
MAX_REMEMBERED = 100
FORGET = """
DELETE FROM seen WHERE id IN (SELECT value FROM json_each(?))
    AND id NOT IN (SELECT id FROM deliveries WHERE body IS NOT NULL)
"""
SETTLE = "DELETE FROM deliveries WHERE batch IN (SELECT value FROM json_each(?))"

# The column of `outgoing` from which on queue, batch and deaths follow.
QUEUE = 11


@dataclass(frozen=True, slots=True)
class OutboxSlice:
    """Rows of one queue that fit into one batch, oldest first: their numbers, and the bytes of their bodies."""

    queue: str
    seqs: tuple[int, ...]
    sizes: tuple[int, ...]
    is_full: bool
    """A limit was reached: more rows may wait."""

    @property
    def bytes(self) -> int:
        """Return the bytes of all bodies."""
        return sum(self.sizes)

    def split(self) -> "tuple[OutboxSlice, OutboxSlice]":
        """Return its two halves."""
        cut = len(self.seqs) // 2
        return self._part(slice(None, cut)), self._part(slice(cut, None))

    def _part(self, part: slice) -> "OutboxSlice":
        return OutboxSlice(self.queue, self.seqs[part], self.sizes[part], is_full=False)


@dataclass(frozen=True, slots=True)
class BatchPayload:
    """The deliveries of a batch, ready for Redis."""

    names: tuple[tuple[str, bool], ...]
    """The event or kind of each delivery, and whether it is only the notice of a duplicate."""
    session_id: str | None
    """The session of one of them, if any has one."""
    deliveries: bytes
    """A JSON array."""
    read_ahead: bytes
    """A JSON array; see `ingest.queue.batch.Batch`."""
    read_ahead_bytes: int
    """The bytes of their bodies."""


@dataclass(frozen=True, slots=True)
class InFlightBatch:
    """A batch that was published and is not settled; `deaths` counts the workers that its only delivery killed."""

    batch_id: str
    queue: str
    offered_at: datetime | None
    count: int
    bytes: int
    deaths: int


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A delivery that may not be in the ledger yet, with the id of its batch, if it has one."""

    delivery: Delivery
    queue: str
    batch_id: str | None
    deaths: int


@dataclass(frozen=True, slots=True)
class Binding:
    """The namespace in Redis that an inbox publishes to, and the ledger behind it as far as it is known."""

    namespace: str
    ledger: str | None


class Outbox:
    """One connection to the inbox file, for one thread at a time. All methods raise sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        # A write that a power loss undoes is harmless: a batch is published or settled twice.
        self._file = open_for_background_writes(path)
        self._file.execute(OUTGOING)
        self._checkpointer = Checkpointer(path)
        self.inbox_id = inbox_id(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed."""
        (version,) = self._file.execute("PRAGMA data_version").fetchone()
        return int(version)

    def oldest_waiting_at(self, queue: str) -> datetime | None:
        """Return when the oldest delivery that waits for the queue was received; None if none waits."""
        found = self._file.execute(
            "SELECT received_at FROM deliveries WHERE batch IS NULL AND queue = ? ORDER BY seq LIMIT 1", (queue,)
        ).fetchone()
        return timestamp_or_none(found[0]) if found else None

    def waiting_since(self) -> datetime | None:
        """Return when the oldest delivery that waits for any queue was received; None if none waits."""
        return min(filter(None, map(self.oldest_waiting_at, QUEUES)), default=None)

    def waiting_count(self) -> int:
        """Return how many rows have no batch."""
        (count,) = self._file.execute("SELECT count(*) FROM deliveries WHERE batch IS NULL").fetchone()
        return int(count)

    def next_batch(self, queue: str, limit: int, size: int) -> OutboxSlice:
        """Return the oldest rows that wait for the queue: at most `limit` with `size` bytes, at least one."""
        rows = self._select(queue, NEXT, {"queue": queue, "limit": limit, "size": size})
        if not rows.seqs:
            return rows
        has_more = self._file.execute(WAITS_AFTER, (queue, rows.seqs[-1])).fetchone() is not None
        return replace(rows, is_full=has_more or len(rows.seqs) == limit)

    def assign(self, batches: Iterable[tuple[str, OutboxSlice]]) -> None:
        """Record which rows travel in which batch, before anything of it is in Redis."""
        now = time.time()
        for batch_id, rows in batches:
            execute_with_retry(self._file, ASSIGN, (batch_id, now, json.dumps(rows.seqs)))
            self._checkpointer.after_commit(self._file, rows.bytes + len(rows.seqs) * ROW_BYTES)

    def settle(self, batch_ids: Sequence[str]) -> int:
        """Remember the deliveries of these batches, and delete their rows; return how many there were."""
        batches = json.dumps(batch_ids)
        ids = [id_ for (id_,) in self._file.execute(SETTLING, (batches,))]
        for start in range(0, len(ids), MAX_REMEMBERED):
            part = ids[start : start + MAX_REMEMBERED]
            execute_with_retry(self._file, REMEMBER, (time.time(), json.dumps(part)))
            self._checkpointer.after_commit(self._file, len(part) * ROW_BYTES)
        count = execute_with_retry(self._file, SETTLE, (batches,))
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
        """Return the rows of the batch; an empty slice if all are settled."""
        found = self._file.execute("SELECT queue FROM deliveries WHERE batch = ? LIMIT 1", (batch_id,)).fetchone()
        return self._select(found[0] if found else "", ROWS, (batch_id,))

    def payload(self, batch_id: str, *, read_ahead: int = 0) -> BatchPayload:
        """Return the deliveries of the batch, and up to `read_ahead` bytes of others of their sessions.

        To be read after `assign`: a duplicate notice counts receipts as long as it waits.
        """
        names, session_id, deliveries = self._file.execute(PAYLOAD, (batch_id,)).fetchone()
        size, others = 0, b"[]"
        if read_ahead:
            size, others = self._file.execute(READ_AHEAD, {"batch": batch_id, "size": read_ahead}).fetchone()
        named = tuple((name, bool(again)) for name, again in json.loads(names))
        return BatchPayload(named, session_id, deliveries, others, size)

    def split(self, batch_id: str, parts: Sequence[tuple[str, OutboxSlice]], *, deaths: int) -> None:
        """Move the rows of a batch into others in one transaction, so that each row always has a batch."""
        with transaction(self._file):
            self._file.execute("UPDATE deliveries SET deaths = ? WHERE batch = ?", (deaths, batch_id))
            self._file.executemany(ASSIGN, [(part_id, time.time(), json.dumps(rows.seqs)) for part_id, rows in parts])
        self._checkpointer.after_commit(self._file, sum(rows.bytes + len(rows.seqs) * ROW_BYTES for _, rows in parts))

    def release(self, batch_ids: Sequence[str]) -> None:
        """Take the rows of these batches out of them, so that they wait again."""
        count = 0
        with transaction(self._file):
            for batch_id in batch_ids:
                # A duplicate notice that waits already stands for this one: it counts receipts when it is published.
                count += self._file.execute(RELEASE, (batch_id,)).rowcount
                self._file.execute("DELETE FROM deliveries WHERE batch = ?", (batch_id,))
        self._checkpointer.after_commit(self._file, count * ROW_BYTES)

    def oldest_unsettled(self) -> dict[str, datetime]:
        """Return when the oldest unsettled delivery of each queue was received, on the disk or on its way."""
        found = self._file.execute(OLDEST_IN_FLIGHT).fetchall()
        oldest = {queue: at for queue, received_at in found if (at := timestamp_or_none(received_at))}
        for name in QUEUES:
            if at := self.oldest_waiting_at(name):
                oldest[name] = min(at, oldest.get(name, at))
        return oldest

    def quarantined_since(self, since: float) -> dict[str, int]:
        """Return how many requests have been put in quarantine since then, by reason, the most common reasons first."""
        return dict(self._file.execute(QUARANTINED, (since,)).fetchall())

    def binding(self) -> Binding | None:
        """Return where this inbox publishes to; None if it has never published."""
        found = self._file.execute("SELECT value FROM meta WHERE name = 'binding'").fetchone()
        return Binding(*json.loads(found[0])) if found else None

    def bind(self, binding: Binding) -> None:
        """Remember where this inbox publishes to."""
        values = (json.dumps([binding.namespace, binding.ledger]),)
        execute_with_retry(self._file, "INSERT OR REPLACE INTO meta VALUES ('binding', ?)", values)

    def downtimes(self) -> list[Downtime]:
        """List the downtimes of this inbox, the oldest first."""
        return list_downtimes(self._file, self.inbox_id)

    def unsettled(self, delivery_id: str | None = None, *, limit: int = 1000) -> list[Unsettled]:
        """List unsettled deliveries, newest first, without duplicate notices; or only the one of this id."""
        rows = self._file.execute(
            "SELECT * FROM outgoing WHERE body IS NOT NULL AND (id = :id OR :id IS NULL)"
            " ORDER BY seq DESC LIMIT :limit",
            {"id": delivery_id, "limit": limit},
        )
        return [Unsettled(self._delivery(row), *row[QUEUE:]) for row in rows]

    def settled(self, *, after: str = "", limit: int = 10_000) -> list[str]:
        """List the ids `after` one that are settled, in their order, without taking a lock.

        An id stays in the list until it is pruned from `seen`.
        """
        return [found for (found,) in self._file.execute(SETTLED, (after, limit))]

    def forget(self, ids: Sequence[str]) -> None:
        """Delete settled ids, so that a delivery of this id is kept again. For a ledger that has lost them."""
        execute_with_retry(self._file, FORGET, (json.dumps(ids),))
        self._checkpointer.after_commit(self._file, len(ids) * ROW_BYTES)

    def record_downtime(self, closed_at: datetime, opened_at: datetime) -> None:
        """Record a span in which events may be missing, as a downtime."""
        with transaction(self._file):
            record_downtime(self._file, closed_at=closed_at.timestamp(), opened_at=opened_at.timestamp())
        self._checkpointer.after_commit(self._file, ROW_BYTES)

    def prune_seen(self, before: datetime, *, after: str = "", limit: int = 500) -> str | None:
        """Delete up to `limit` ids first seen before then; return the id to go on after, None at the end."""
        rows = self._file.execute(
            "SELECT id FROM seen WHERE id > ? AND first_at < ? ORDER BY id LIMIT ?", (after, before.timestamp(), limit)
        )
        # Selected outside the transaction: the table is long, and the inbox waits for the lock.
        ids = [id_ for (id_,) in rows]
        if ids:
            execute_with_retry(
                self._file, "DELETE FROM seen WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
            )
            self._checkpointer.after_commit(self._file, len(ids) * ROW_BYTES)
        return ids[-1] if len(ids) == limit else None

    def _select(self, queue: str, statement: str, values: Any) -> OutboxSlice:
        (listed,) = self._file.execute(statement, values).fetchone()
        rows = json.loads(listed)
        return OutboxSlice(queue, tuple(seq for seq, _ in rows), tuple(size for _, size in rows), is_full=False)

    def _delivery(self, row: tuple[Any, ...]) -> Delivery:
        _, id_, kind, event, session_id, received_at, signed_with, signed_at, headers, body, receipts, *_ = row
        received, signed = datetime.fromtimestamp(received_at, UTC), timestamp_or_none(signed_at)
        names = (id_, kind, event, session_id)
        return Delivery(*names, received, signed_with, signed, json.loads(headers), body, receipts, self.inbox_id)
