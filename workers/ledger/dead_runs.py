"""Group dead runs and dead pushes by their cause: what failed, how, and where in our own code."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from workers.ledger.alert_queries import IS_DEAD, IS_DEAD_PUSH, handlers_of_dead
from workers.ledger.tables.core_tables import pushes, runs

MAX_READ = 2000
"""The newest dead runs of a handler, or dead pushes, that are grouped."""
END_OF_TRACEBACK = 3000
"""Characters; the last lines name the place."""
HOURS = 24
FRAME = re.compile(r'^  File "([^"\n]{1,1000})", line (\d+), in ([^\n]{1,200})$', re.MULTILINE)
FOREIGN = ("site-packages", "/lib/python", "<frozen", "/workers/execution/", "/workers/resilience/", "/handlers/kit/")


@dataclass(frozen=True)
class Cause:
    """What failures have in common: the handler or channel, the type of the error, and the last line of our code."""

    name: str
    error: str
    place: str | None = None

    @property
    def key(self) -> str:
        """Return a short name of it for addresses."""
        return hashlib.sha256(f"{self.name}\0{self.error}\0{self.place}".encode("utf-8", "surrogatepass")).hexdigest()[
            :16
        ]


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one cause, the newest first."""

    cause: Cause
    ids: Sequence[str]
    """Of deliveries, or of pushes."""
    first_at: datetime
    last_at: datetime
    hours: Sequence[int]
    """How many in each of the last HOURS hours, the current one last."""
    is_cut: bool
    """Whether there may be more than were read."""


def group_dead_runs(conn: Connection, now: datetime) -> list[FailureGroup]:
    """Group the dead runs, the newest MAX_READ of each handler; the cause that was seen last first."""
    found: list[FailureGroup] = []
    for handler in handlers_of_dead(conn):
        query = (
            select(runs.c.delivery_id, runs.c.error, runs.c.reason, _end(conn, runs.c.traceback), runs.c.finished_at)
            .where(IS_DEAD, runs.c.handler == handler, runs.c.finished_at.is_not(None))
            .order_by(runs.c.finished_at.desc())
            .limit(MAX_READ)
        )
        rows = [
            (Cause(handler, type_of(error or reason), place_of(trace)), delivery_id, finished_at)
            for delivery_id, error, reason, trace, finished_at in conn.execute(query)
        ]
        found += _group(rows, now)
    return sorted(found, key=lambda group: group.last_at, reverse=True)


def group_dead_pushes(conn: Connection, now: datetime) -> list[FailureGroup]:
    """Group the newest MAX_READ dead pushes by channel and error, the cause that was seen last first."""
    query = (
        select(pushes.c.id, pushes.c.channel, pushes.c.error, pushes.c.created_at)
        .where(IS_DEAD_PUSH)
        .order_by(pushes.c.created_at.desc())
        .limit(MAX_READ)
    )
    rows = [(Cause(channel, type_of(error)), push_id, at) for push_id, channel, error, at in conn.execute(query)]
    return sorted(_group(rows, now), key=lambda group: group.last_at, reverse=True)


def traceback_of(conn: Connection, delivery_id: str, handler: str) -> str | None:
    """Return the traceback of a run."""
    found: str | None = conn.scalar(
        select(runs.c.traceback).where(runs.c.delivery_id == delivery_id, runs.c.handler == handler)
    )
    return found


def type_of(error: str | None) -> str:
    """Return the type of an error: what follows it may be a body or a driver."""
    return (error or "").partition("\n")[0].partition(":")[0][:100] or "unknown"


@lru_cache(maxsize=64)  # failures of one cause have the same traceback
def place_of(traceback: str | None) -> str | None:
    """Return the last line of our own code in a traceback; without one the last line of all."""
    frames = [match.groups() for match in FRAME.finditer(traceback or "")]
    own = [frame for frame in frames if not any(part in frame[0] for part in FOREIGN)]
    if not frames:
        return None
    file, line, function = (own or frames)[-1]
    return f"{file.rpartition('/')[2]}:{line} in {function}"


def frames_of(traceback: str) -> str:
    """Return a traceback without the messages of errors, which may hold a body: its places and lines of code."""
    lines = traceback.split("\n")
    shown = []
    for number, line in enumerate(lines):
        if FRAME.fullmatch(line):
            shown.append(line)
            if number + 1 < len(lines) and lines[number + 1].startswith("    "):
                shown.append(lines[number + 1])
    return "\n".join(shown)


def _group(rows: Sequence[tuple[Cause, str, datetime]], now: datetime) -> list[FailureGroup]:
    by_cause: dict[Cause, list[tuple[str, datetime]]] = defaultdict(list)
    for cause, name, at in rows:
        by_cause[cause].append((name, at))
    groups = []
    for cause, members in by_cause.items():
        hours = [0] * HOURS
        for _, at in members:
            age = int((now - at) / timedelta(hours=1))
            if 0 <= age < HOURS:
                hours[HOURS - 1 - age] += 1
        ids = list(dict.fromkeys(name for name, _ in members))
        times = [at for _, at in members]
        groups.append(FailureGroup(cause, ids, min(times), max(times), hours, is_cut=len(rows) == MAX_READ))
    return groups


def _end(conn: Connection, column: ColumnElement[Any]) -> ColumnElement[Any]:
    if conn.dialect.name == "postgresql":
        return func.right(column, END_OF_TRACEBACK)
    return func.substr(column, -END_OF_TRACEBACK)
