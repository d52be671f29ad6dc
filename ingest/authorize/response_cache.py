"""Cache of recent results: a request that is sent again gets the same decision, and calls policies once."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

from ingest.authorize.decisions import PolicyResult

MAX_ENTRIES = 10_000
"""At a hundred requests a second more than a minute and a half of them."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A request whose policies have been called, and perhaps have not returned yet."""

    id: str
    requested_at: float
    result: asyncio.Task[PolicyResult]


class ResponseCache:
    """Caches results for a time, and coalesces concurrent equal requests. Belongs to one event loop of one process.

    Failures are evicted: they were no decision, and the same driver may try again in a moment.
    """

    def __init__(
        self, ttl: timedelta, *, max_entries: int = MAX_ENTRIES, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl = ttl.total_seconds()
        self._max_entries = max_entries
        self._monotonic = monotonic
        self._entries: dict[bytes, CacheEntry] = {}  # oldest first

    def get_or_compute(
        self, request: bytes, id_: str, compute: Callable[[], Coroutine[Any, Any, PolicyResult]]
    ) -> tuple[CacheEntry, bool]:
        """Return the entry of the same request, or a new one that computes; and whether it is a repeat."""
        now = self._monotonic()
        for digest in self._expired(now):
            del self._entries[digest]
        digest = sha256(request).digest()
        known = self._entries.get(digest)
        if known is not None:
            return known, True
        entry = CacheEntry(id_, now, asyncio.create_task(compute()))
        if self._ttl:
            self._entries[digest] = entry
            entry.result.add_done_callback(lambda task: self._evict_failure(digest, entry, task))
        return entry, False

    def _expired(self, now: float) -> list[bytes]:
        expired = []
        surplus = len(self._entries) + 1 - self._max_entries
        for number, (digest, entry) in enumerate(self._entries.items()):
            if number >= surplus and now - entry.requested_at < self._ttl:
                break
            expired.append(digest)
        return expired

    def _evict_failure(self, digest: bytes, entry: CacheEntry, task: asyncio.Task[PolicyResult]) -> None:
        failed = task.cancelled() or task.exception() is not None or task.result().failure is not None
        if failed and self._entries.get(digest) is entry:
            del self._entries[digest]
