"""The registry of processes in Redis: each reports itself every few seconds, so that others notice which are gone.

Times are those of Redis, so that no clocks of two machines are compared.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Self

import redis
import structlog

from ingest.errors import QueueUnavailable

log = structlog.get_logger()

# A hash with a field for each process.
KEY = "webhooks:processes"
BEAT_EVERY = timedelta(seconds=5)
"""How often a process reports itself."""
ALIVE_FOR = timedelta(seconds=20)
"""How long after its last report a process counts as alive."""
FORGOTTEN_AFTER = timedelta(hours=1)
"""How long a process that is gone is remembered."""


class ProcessType(StrEnum):
    """The types of processes that report themselves."""

    SERVE = "serve"
    """Receives events. The process that relays for a data folder reports for all that share the folder."""

    WORK = "work"
    """Runs handlers."""

    CLOCK = "clock"
    """Does what is due, sends pushes and alerts."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What `serve` reports of its inbox, which no other process can read."""

    SPAN: ClassVar = timedelta(minutes=5)

    quarantined: Mapping[str, int] = field(default_factory=dict)
    """How many requests were put in quarantine within the last SPAN, by reason."""
    oldest: Mapping[str, float] = field(default_factory=dict)
    """The age in seconds of the oldest unsettled delivery, by queue."""
    waiting: int | None = None
    """How many deliveries are only in its inbox; None if another version has reported."""
    oldest_waiting: float | None = None
    """The age in seconds of the oldest of them; None if there is none."""
    oldest_erasure: float | None = None
    """The age in seconds of the oldest order to erase that is not carried out in it; None if there is none."""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Return what `asdict` has made of one. Raise KeyError or TypeError if another version wrote something else."""
        waiting, oldest_waiting, oldest_erasure = map(fields.get, ("waiting", "oldest_waiting", "oldest_erasure"))
        return cls(
            dict(fields["quarantined"]),
            dict(fields["oldest"]),
            None if waiting is None else int(waiting),
            None if oldest_waiting is None else float(oldest_waiting),
            None if oldest_erasure is None else float(oldest_erasure),
        )


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process as it last reported itself."""

    process: ProcessType
    id: str
    """Unique among the processes of its type."""
    host: str
    pid: int
    started_at: float = 0.0
    beat_at: float = 0.0
    age: float = 0.0
    """Seconds since its last report."""
    is_stopped: bool = False
    """Whether it has ended by itself, and said so."""
    queues: tuple[str, ...] = ()
    """The queues that a worker serves."""
    outdated: tuple[str, ...] = ()
    """The plugins whose files are newer than what a worker has loaded."""
    handlers: tuple[str, ...] = ()
    """The handlers that a worker or a clock has loaded."""
    node: NodeReport | None = None

    @classmethod
    def of_this_process(cls, process: ProcessType, *, queues: Iterable[str] = ()) -> Self:
        """Return the record of this process."""
        host, pid = socket.gethostname(), os.getpid()
        return cls(process, f"{host}:{pid}", host, pid, queues=tuple(queues))

    @property
    def is_alive(self) -> bool:
        """Whether it reported itself a moment ago. A negative age means that the clock of Redis was set back."""
        return not self.is_stopped and self.age <= ALIVE_FOR.total_seconds()

    @property
    def last_beat_at(self) -> datetime:
        """When it reported itself last."""
        return datetime.fromtimestamp(self.beat_at, UTC)

    def to_json(self) -> str:
        """Format the value of its field."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "age"})

    @classmethod
    def from_json(cls, text: bytes, now: float) -> "ProcessRecord | None":
        """Parse what `to_json` returned; None if another version wrote something else."""
        try:
            fields: dict[str, Any] = json.loads(text)
            known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
            node = known.pop("node", None)
            record = cls(**{**known, "process": ProcessType(known["process"])})
            return replace(
                record,
                age=now - record.beat_at,
                queues=tuple(record.queues),
                outdated=tuple(record.outdated),
                handlers=tuple(record.handlers),
                node=None if node is None else NodeReport.from_fields(node),
            )
        except (ValueError, TypeError, KeyError):
            return None


class ProcessRegistry:
    """Reports this process, and lists all. Raises QueueUnavailable."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._started_at: float | None = None
        self._beat_at = float("-inf")

    @property
    def is_due(self) -> bool:
        """Whether it is time to report this process again."""
        return time.monotonic() >= self._beat_at + BEAT_EVERY.total_seconds()

    def beat(self, record: ProcessRecord) -> list[ProcessRecord]:
        """Report this process, and return what was known of all before."""
        try:
            now, found = self._read()
            if self._started_at is None:
                self._started_at = now
            current = replace(record, started_at=self._started_at, beat_at=now)
            forgotten = [name for name, each in found.items() if each.age > FORGOTTEN_AFTER.total_seconds()]
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(KEY, f"{record.process}:{record.id}", current.to_json())
                if forgotten:
                    pipe.hdel(KEY, *forgotten)
                pipe.execute()
        except redis.RedisError as error:
            raise QueueUnavailable(f"processes cannot be reported: {type(error).__name__}") from error
        self._beat_at = time.monotonic()
        return list(found.values())

    def stop(self, record: ProcessRecord) -> None:
        """Report that this process ends. Without Redis it will look as if it had died."""
        try:
            self.beat(replace(record, is_stopped=True))
        except QueueUnavailable as error:
            log.warning("process.end_unreported", reason=str(error))

    def processes(self) -> list[ProcessRecord]:
        """List all processes, those that are gone too."""
        try:
            return list(self._read()[1].values())
        except redis.RedisError as error:
            raise QueueUnavailable(f"processes cannot be listed: {type(error).__name__}") from error

    def _read(self) -> tuple[float, dict[bytes, ProcessRecord]]:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(KEY)
            (seconds, microseconds), fields = pipe.execute()
        now = seconds + microseconds / 1_000_000
        records = {name: ProcessRecord.from_json(text, now) for name, text in fields.items()}
        return now, {name: record for name, record in records.items() if record is not None}
