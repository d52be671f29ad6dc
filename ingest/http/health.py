"""How the door and what stands behind it are, for those who ask whether an event would be kept."""

import asyncio
import contextlib
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from ingest.errors import InboxUnavailable
from ingest.inbox.inbox import Inbox
from ingest.relay.relay import Relay, RelayStatus

# In seconds. A probe is a commit: however often somebody asks, there is no more than one in this time.
CACHE_FOR = 0.5
PATIENCE = 2.0

# Counted in two partial indexes: the table itself has all the bodies in it.
UNSETTLED = """
SELECT
    (SELECT count(*) FROM deliveries WHERE batch IS NULL) + (SELECT count(*) FROM deliveries WHERE batch IS NOT NULL),
    (SELECT received_at FROM deliveries ORDER BY seq LIMIT 1)
"""


@dataclass(frozen=True)
class Readiness:
    """What was found out in one look."""

    inbox_problem: str | None
    """Why an event could not be kept; None if it could."""
    unsettled: int | None
    """Deliveries that are not settled; None if that could not be read."""
    oldest_unsettled_seconds: float | None
    """How long the first of them has been waiting; 0 if there is none."""
    relay: RelayStatus


class ReadinessCheck:
    """Looks at the inbox by having it keep something, and at the rest by asking."""

    def __init__(self, path: Path, inbox: Inbox, relay: Relay) -> None:
        self._path = path
        self._inbox = inbox
        self._relay = relay
        self._look: asyncio.Task[Readiness] | None = None
        self._looked_at = -CACHE_FOR

    async def check(self) -> Readiness:
        """Find out how things are, or were a moment ago."""
        now = time.monotonic()
        if self._look is None or (self._look.done() and now - self._looked_at >= CACHE_FOR):
            self._looked_at = now
            self._look = asyncio.create_task(self._run_checks())
        return await asyncio.shield(self._look)  # others may be waiting for the same look

    async def _run_checks(self) -> Readiness:
        problem = None
        try:
            await asyncio.wait_for(self._inbox.probe(), PATIENCE)
        except InboxUnavailable as error:
            problem = self._inbox.problem or str(error)
        except TimeoutError:
            problem = f"Nothing was written within {PATIENCE:g} seconds."
        unsettled, age = await asyncio.to_thread(self._unsettled)
        return Readiness(problem, unsettled, age, self._relay.status())

    def _unsettled(self) -> tuple[int | None, float | None]:
        with contextlib.suppress(sqlite3.Error):
            with contextlib.closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=1)) as file:
                count, received_at = file.execute(UNSETTLED).fetchone()
            return count, 0.0 if received_at is None else max(0.0, time.time() - received_at)
        return None, None
