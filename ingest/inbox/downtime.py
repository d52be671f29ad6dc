"""Downtimes: spans in which a node could keep nothing, stored in its inbox file."""

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# A hash with a field for each downtime of each node.
KEY = "gaps"
# Rows of one file: a machine that restarts all the time must not fill it.
MAX_DOWNTIMES = 1000


@dataclass(frozen=True, slots=True, order=True)
class Downtime:
    """A span in which one node could keep nothing."""

    closed_at: datetime
    opened_at: datetime
    inbox: str

    @property
    def length(self) -> timedelta:
        """Return how long it was."""
        return self.opened_at - self.closed_at

    @property
    def field(self) -> str:
        """Return its field in the hash, unique among all nodes."""
        return f"{self.inbox}:{self.closed_at.isoformat()}"

    def to_json(self) -> str:
        """Return the value of its field."""
        return json.dumps(
            {"inbox": self.inbox, "closed_at": self.closed_at.isoformat(), "opened_at": self.opened_at.isoformat()}
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "Downtime":
        """Parse what `to_json` returned. Raise ValueError or KeyError for anything else."""
        fields = json.loads(text)
        return cls(
            datetime.fromisoformat(fields["closed_at"]), datetime.fromisoformat(fields["opened_at"]), fields["inbox"]
        )


def record_downtime(file: sqlite3.Connection, *, closed_at: float, opened_at: float) -> None:
    """Insert a downtime in the caller's transaction; delete the oldest beyond MAX_DOWNTIMES."""
    file.execute("INSERT OR REPLACE INTO gaps VALUES (?, ?)", (closed_at, opened_at))
    file.execute(
        "DELETE FROM gaps WHERE closed_at <= (SELECT closed_at FROM gaps ORDER BY closed_at DESC LIMIT 1 OFFSET ?)",
        (MAX_DOWNTIMES,),
    )


def list_downtimes(file: sqlite3.Connection, inbox: str) -> list[Downtime]:
    """List the downtimes of an inbox file, the oldest first."""
    return [
        Downtime(datetime.fromtimestamp(row[0], UTC), datetime.fromtimestamp(row[1], UTC), inbox)
        for row in file.execute("SELECT closed_at, opened_at FROM gaps ORDER BY closed_at")
    ]
