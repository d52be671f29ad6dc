"""Carries out orders to erase in the inbox file of this node.

Deliveries on their way to the ledger are not touched: they are erased there, so that none is lost. An order is carried
out once they are there: then requests in quarantine are deleted, and the file is rewritten, as SQLite leaves what was
deleted in its free space.
"""

import json
import sqlite3
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import redis
import structlog

from ingest.inbox.corruption import is_corruption
from ingest.inbox.write_lock import (
    CHECKPOINT_AFTER,
    Checkpointer,
    execute_with_retry,
    open_for_background_writes,
    transaction,
)
from ingest.queue.erasure_orders import ErasureOrder, ErasureReport, list_orders, report_erasure

log = structlog.get_logger()

POLL_EVERY = 5.0
# Seconds of one poll. A delivery takes 0.1 ms, and meanwhile the relay publishes nothing.
SEARCH_TIME = 0.5
# Bytes in use: what is free is not copied. To rewrite so many takes a second on a slow disk. Requests wait for that,
# and are refused after the LOCK_TIMEOUT of `write_lock`.
LARGEST_REWRITTEN = 134_217_728
# Bytes of a log that was just cut, with what was committed since.
LONGEST_LOG = 262_144
# Readers of the log keep it from being cut.
CUT_ATTEMPTS = 20
CUT_PAUSE = 0.05
SELECT_UNSETTLED = """
SELECT seq, headers, body, session_id FROM deliveries WHERE body IS NOT NULL AND seq > ? ORDER BY seq
"""
SELECT_QUARANTINED = "SELECT seq, headers, body FROM quarantine"
DELETE_QUARANTINED = "DELETE FROM quarantine WHERE seq IN (SELECT value FROM json_each(?))"
SELECT_USED_BYTES = """
SELECT page_size * (page_count - freelist_count) FROM pragma_page_size, pragma_page_count, pragma_freelist_count
"""
SELECT_DONE = "SELECT value FROM meta WHERE name = 'erasures'"
SET_DONE = "INSERT OR REPLACE INTO meta VALUES ('erasures', ?)"


class InboxErasure:
    """Polls for orders and carries them out. Raises QueueUnavailable or sqlite3.Error."""

    def __init__(self, path: Path, inbox_id: str, connection: redis.Redis) -> None:
        self._path = path
        self._inbox_id = inbox_id
        self._connection = connection
        self._polled_at = float("-inf")
        self._done: frozenset[str] | None = None
        # By order: the last delivery, of those that need not be searched again.
        self._searched: dict[str, int] = {}
        self.open_since: float | None = None
        """When the oldest of the orders was given that are not carried out; None if all are."""

    def poll(self) -> None:
        """Carry out new orders if it is time to look for some."""
        if time.monotonic() < self._polled_at + POLL_EVERY:
            return
        self._polled_at = time.monotonic()
        orders = list_orders(self._connection)
        if not orders or (self._done is not None and self._done >= {order.id for order in orders}):
            self.open_since = None
            return
        # Before the file is opened, which may fail: none is known to be carried out then.
        self.open_since = self._oldest_open(orders)
        file = open_for_background_writes(self._path)
        try:
            self._done = _read_done(file)
            until = time.monotonic() + SEARCH_TIME
            new = self._open(orders)
            settled = [order for order in new if self._is_settled(file, order, until)]
            if settled:
                self._carry_out(file, settled, {order.id for order in orders})
            self.open_since = self._oldest_open(orders)
        finally:
            file.close()

    def _open(self, orders: Sequence[ErasureOrder]) -> list[ErasureOrder]:
        return [order for order in orders if order.id not in (self._done or ())]

    def _oldest_open(self, orders: Sequence[ErasureOrder]) -> float | None:
        return min((order.at for order in self._open(orders)), default=None)

    def _is_settled(self, file: sqlite3.Connection, order: ErasureOrder, until: float) -> bool:
        """Return whether no delivery names what is to be erased; False if the time is over. The next poll goes on."""
        for seq, *texts in file.execute(SELECT_UNSETTLED, (self._searched.get(order.id, 0),)):
            if time.monotonic() > until or order.is_in(*texts):
                return False
            self._searched[order.id] = seq
        return True

    def _carry_out(self, file: sqlite3.Connection, orders: Sequence[ErasureOrder], known: Collection[str]) -> None:
        """Carry out orders, and remember it for as long as Redis knows them."""
        counts = [self._delete_quarantined(file, order) for order in orders]
        is_rewritten = self._try_rewrite(file)  # once for all of them, as requests wait for it
        for order, count in zip(orders, counts, strict=True):
            report_erasure(self._connection, order.id, self._inbox_id, ErasureReport(count, is_rewritten))
            self._done = (self._done or frozenset()).intersection(known) | {order.id}
            execute_with_retry(file, SET_DONE, (json.dumps(sorted(self._done)),))
            log.info("erasure.done", erasure=order.id, quarantined=count, rewritten=is_rewritten)

    def _delete_quarantined(self, file: sqlite3.Connection, order: ErasureOrder) -> int:
        matching = [seq for seq, *texts in file.execute(SELECT_QUARANTINED) if order.is_in(*texts)]
        with transaction(file):
            return file.execute(DELETE_QUARANTINED, (json.dumps(matching),)).rowcount

    def _try_rewrite(self, file: sqlite3.Connection) -> bool:
        try:
            return self._rewrite(file)
        except sqlite3.Error as error:  # there may be no temporary space, and the relay has to go on
            if is_corruption(error):
                raise
            log.warning("erasure.rewrite_failed", error=f"{type(error).__name__}: {error}")
            return False

    def _rewrite(self, file: sqlite3.Connection) -> bool:
        """Rewrite the file and cut its log; return False if the file holds too much, or the log is in use."""
        if file.execute(SELECT_USED_BYTES).fetchone()[0] > LARGEST_REWRITTEN:
            return False
        execute_with_retry(file, "VACUUM")
        log_file = self._path.with_name(f"{self._path.name}-wal")
        # The first commit after a complete checkpoint begins the log anew, and cuts it to this limit.
        file.execute("PRAGMA journal_size_limit = 0").fetchone()
        for _ in range(CUT_ATTEMPTS):
            Checkpointer(self._path).after_commit(file, CHECKPOINT_AFTER)
            execute_with_retry(file, "INSERT OR REPLACE INTO meta VALUES ('rewritten_at', ?)", (str(time.time()),))
            if log_file.stat().st_size <= LONGEST_LOG:
                return True
            time.sleep(CUT_PAUSE)
        return False


def _read_done(file: sqlite3.Connection) -> frozenset[str]:
    found = file.execute(SELECT_DONE).fetchone()
    return frozenset(json.loads(found[0])) if found else frozenset()
