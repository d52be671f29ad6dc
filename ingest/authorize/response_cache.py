"""What was answered a moment ago: the same request, sent again, gets the same answer, and no policy is asked twice."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

from ingest.authorize.evaluator import PolicyResult

MAX_ENTRIES = 10_000
"""Most that is remembered: at a hundred questions a second that is more than a minute and a half of them."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A question that was put to the policies: perhaps they have not answered yet."""

    id: str
    asked_at: float
    ruling: asyncio.Task[PolicyResult]


class ResponseCache:
    """Remembers rulings for a span. Of one process and one event loop; a second process has a memory of its own.

    What failed is not remembered: it was no decision, and the same driver may try again in a moment.
    """

    def __init__(
        self, span: timedelta, *, places: int = MAX_ENTRIES, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._span = span.total_seconds()
        self._places = places
        self._monotonic = monotonic
        self._remembered: dict[bytes, CacheEntry] = {}  # in the order in which they were asked

    def get_or_compute(
        self, request: bytes, id_: str, ask: Callable[[], Coroutine[Any, Any, PolicyResult]]
    ) -> tuple[CacheEntry, bool]:
        """Ask, unless the same request is remembered; say which it is, and whether it is a repeat."""
        now = self._monotonic()
        for digest in list(self._expired(now)):
            del self._remembered[digest]
        digest = sha256(request).digest()
        known = self._remembered.get(digest)
        if known is not None:
            return known, True
        asked = CacheEntry(id_, now, asyncio.create_task(ask()))
        if self._span:
            self._remembered[digest] = asked
            asked.ruling.add_done_callback(lambda task: self._evict_failure(digest, asked, task))
        return asked, False

    def _expired(self, now: float) -> list[bytes]:
        outdated = []
        surplus = len(self._remembered) + 1 - self._places
        for number, (digest, each) in enumerate(self._remembered.items()):
            if number >= surplus and now - each.asked_at < self._span:
                break
            outdated.append(digest)
        return outdated

    def _evict_failure(self, digest: bytes, asked: CacheEntry, task: asyncio.Task[PolicyResult]) -> None:
        failed = task.cancelled() or task.exception() is not None or task.result().failure is not None
        if failed and self._remembered.get(digest) is asked:
            del self._remembered[digest]
