"""How everything stands now: what `webhooks check` finds, and today's numbers, read in a thread and kept a while."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Protocol

import structlog
from redis.exceptions import RedisError
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from ingest.config.settings import Settings
from ingest.errors import WebhooksError
from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import queue
from ingest.wire.timestamps import utc_now
from workers.console.page_stores import Opener
from workers.installation import open_queues
from workers.ledger.deliveries import has_state
from workers.ledger.states import DeliveryState
from workers.ledger.stats_queries import SpanStats, read_stats
from workers.ledger.tables.core_tables import deliveries
from workers.lists.list_query import Stores
from workers.lists.time_parsing import parse_time

KEPT_FOR = 5.0
"""Seconds; a page that is asked for later shows what was read last, and has it read again."""
OLD_AFTER = timedelta(seconds=15)
"""A page that is asked for later waits for what is read anew, PATIENCE seconds at most, and then says how old it is."""
PATIENCE = 3.0
STEPS = 60
STEP = timedelta(minutes=1)
OPEN = (DeliveryState.RUNNING, DeliveryState.RETRYING)
REDIS_TIMEOUT = 2
URGENCY = {"fail": 0, "warn": 1, "ok": 2}

log = structlog.get_logger()


class HealthFinding(Protocol):
    """What a check has found about one subject."""

    @property
    def status(self) -> StrEnum:
        """Return ok, warn or fail."""

    @property
    def subject(self) -> str:
        """Return what it is about."""

    @property
    def sentence(self) -> str:
        """Return how it is, and what to do."""


@dataclass(frozen=True)
class HealthLine:
    """How one subject is, and since when this process has seen it so."""

    status: str
    subject: str
    sentence: str
    since: datetime


@dataclass(frozen=True)
class Overview:
    """How everything stands at a time."""

    at: datetime
    lines: Sequence[HealthLine] = ()
    oldest_at: datetime | None = None
    """When the oldest delivery that is not settled was received."""
    depths: Mapping[str, int] | None = None
    """Jobs by queue; None if Redis does not answer."""
    rates: Sequence[int] = ()
    """Deliveries in each of the last STEPS minutes, the current one last."""
    today: SpanStats | None = None

    @property
    def is_read(self) -> bool:
        """Return whether the ledger could be read: else nothing is known of what waits, and of the last hour."""
        return self.today is not None

    @property
    def age(self) -> timedelta:
        """Return how long ago it was read."""
        return utc_now() - self.at

    @property
    def is_old(self) -> bool:
        """Return whether it was read so long ago that it may be wrong."""
        return self.age > OLD_AFTER


def no_checks(_settings: Settings) -> Iterable[HealthFinding]:
    """Check nothing."""
    return ()


class OverviewReader:
    """Reads the overview in a thread, at most one at a time, and only while somebody looks."""

    def __init__(self, stores: Opener, checks: Callable[[Settings], Iterable[HealthFinding]]) -> None:
        self._stores = stores
        self._checks = checks
        self._lock = threading.Lock()
        self._since: dict[tuple[str, str], datetime] = {}
        self._read_at = float("-inf")
        self._last: Overview | None = None
        self._thread: threading.Thread | None = None

    def read(self) -> Overview:
        """Return what was read last, and have it read again if that is too long ago; the first one is waited for."""
        if self._last is None:
            with self._lock:
                if self._last is None:
                    self._last = self._overview()
        elif time.monotonic() - self._read_at > KEPT_FOR and self._lock.acquire(blocking=False):
            self._read_at = time.monotonic()
            self._thread = threading.Thread(target=self._refresh, name="overview", daemon=True)
            self._thread.start()
        if self._last.is_old and self._thread is not None:
            self._thread.join(PATIENCE)
        return self._last

    def _refresh(self) -> None:
        try:
            self._last = self._overview()
        finally:
            self._lock.release()

    def _overview(self) -> Overview:
        now = utc_now()
        overview = Overview(now, lines=self._lines(now), depths=self._depths())
        try:
            with self._stores.open() as stores:
                overview = Overview(
                    now,
                    overview.lines,
                    _oldest_at(stores),
                    overview.depths,
                    _rates(stores.ledger, now),
                    read_stats(stores.ledger, parse_time("today"), now, with_runs=False),
                )
        except (SQLAlchemyError, WebhooksError) as error:
            log.warning("overview.not_read", reason=type(error).__name__)
        self._read_at = time.monotonic()
        return overview

    def _lines(self, now: datetime) -> list[HealthLine]:
        found = [(str(each.status), each.subject, each.sentence) for each in self._checks(self._stores.settings)]
        keys = {(status, subject) for status, subject, _ in found}
        self._since = {key: self._since.get(key, now) for key in keys}
        # What needs somebody is first: on a phone the rest is further down than one looks.
        found.sort(key=lambda each: URGENCY.get(each[0], len(URGENCY)))
        return [HealthLine(*each, self._since[each[0], each[1]]) for each in found]

    def _depths(self) -> dict[str, int] | None:
        settings, engine = self._stores.settings, self._stores.engine
        try:
            with open_queues(settings, engine, timeout=REDIS_TIMEOUT) as connection:
                return {name: queue(name, connection).count for name in QUEUES}
        except (RedisError, OSError, SQLAlchemyError, WebhooksError):
            return None


def _oldest_at(stores: Stores) -> datetime | None:
    """Return when the oldest delivery was received that waits in the inbox of this node or has an open run."""
    oldest = [
        stores.ledger.scalar(
            select(deliveries.c.received_at).where(has_state(state)).order_by(deliveries.c.received_at).limit(1)
        )
        for state in OPEN
    ]
    waiting = () if stores.outbox is None else stores.outbox.oldest_unsettled().values()
    return min(filter(None, (*oldest, *waiting)), default=None)


def _rates(conn: Connection, now: datetime) -> list[int]:
    bounds = [now - STEP * number for number in range(STEPS, -1, -1)]
    return [
        conn.scalar(select(func.count()).where(deliveries.c.received_at > start, deliveries.c.received_at <= end)) or 0
        for start, end in pairwise(bounds)
    ]
