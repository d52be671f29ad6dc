"""Times in which nothing could be kept at this node: in its inbox file, and told to Redis for the clock to read."""

import json
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import redis

from ingest.errors import QueueUnavailable

# The hash that tells of them: a field for each gap, so that what several nodes say stands side by side.
KEY = "webhooks:gaps"
# Plugsurfing sends CDRs again for seven days; what is older is in the ledger, or was never asked for.
PUBLISH_FOR = timedelta(days=8)
TOLD_EVERY = 60.0
# Most that one file remembers: a machine that comes and goes shall not fill it.
MOST = 1000


@dataclass(frozen=True, slots=True, order=True)
class Downtime:
    """A time in which nothing could be kept at one node."""

    closed_at: datetime
    opened_at: datetime
    inbox: str

    @property
    def length(self) -> timedelta:
        """Tell how long it was."""
        return self.opened_at - self.closed_at

    @property
    def field(self) -> str:
        """Name it among all gaps of all nodes."""
        return f"{self.inbox}:{self.closed_at.isoformat()}"

    def to_json(self) -> str:
        """Write it for Redis."""
        return json.dumps(
            {"inbox": self.inbox, "closed_at": self.closed_at.isoformat(), "opened_at": self.opened_at.isoformat()}
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "Downtime":
        """Read one that `to_json` wrote. Raise ValueError or KeyError if it is none."""
        fields = json.loads(text)
        return cls(
            datetime.fromisoformat(fields["closed_at"]), datetime.fromisoformat(fields["opened_at"]), fields["inbox"]
        )


def record_downtime(file: sqlite3.Connection, *, closed_at: float, opened_at: float) -> None:
    """Remember a gap, in the caller's transaction."""
    file.execute("INSERT OR REPLACE INTO gaps VALUES (?, ?)", (closed_at, opened_at))
    file.execute(
        "DELETE FROM gaps WHERE closed_at <= (SELECT closed_at FROM gaps ORDER BY closed_at DESC LIMIT 1 OFFSET ?)",
        (MOST,),
    )


def list_downtimes(file: sqlite3.Connection, inbox: str) -> list[Downtime]:
    """List the gaps that an inbox file remembers, the oldest first."""
    return [
        Downtime(datetime.fromtimestamp(row[0], UTC), datetime.fromtimestamp(row[1], UTC), inbox)
        for row in file.execute("SELECT closed_at, opened_at FROM gaps ORDER BY closed_at")
    ]


class DowntimePublisher:
    """Keeps what Redis says of one node's gaps true: each is told at once and every minute, for eight days."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._told: list[Downtime] = []
        self._told_at = float("-inf")

    def publish(self, gaps: list[Downtime]) -> None:
        """Tell them if there is something new or it is time. Raise QueueUnavailable."""
        if gaps == self._told and time.monotonic() < self._told_at + TOLD_EVERY:
            return
        before = datetime.now(UTC) - PUBLISH_FOR
        young = {gap.field: gap.to_json() for gap in gaps if gap.opened_at > before}
        old = [gap.field for gap in gaps if gap.opened_at <= before]
        try:
            if young:
                self._redis.hset(KEY, mapping=young)  # type: ignore[arg-type]  # redis-py's keys are invariant
            if old:
                self._redis.hdel(KEY, *old)
        except redis.RedisError as error:
            raise QueueUnavailable(type(error).__name__) from error
        self._told, self._told_at = gaps, time.monotonic()
