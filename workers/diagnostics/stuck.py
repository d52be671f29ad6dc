"""Finds stuck work: unsettled deliveries, runs and pushes that no queue, lease, schedule or inbox accounts for."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice

import redis
from sqlalchemy import Connection, Engine, exists, func, not_, select

from ingest.errors import QueueUnavailable
from ingest.queue.leases import LEASE_TIMEOUT, JobState, LeaseMonitor
from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import queue
from ingest.relay.outbox import Outbox
from ingest.relay.relay_loop import MAX_WAITING_JOBS
from workers.ledger import run_schedule
from workers.ledger.database.conditions import in_list
from workers.ledger.database.engine import read_only
from workers.ledger.deliveries import has_state
from workers.ledger.invariants import EXAMPLES
from workers.ledger.states import DeliveryState
from workers.ledger.tables.core_tables import deliveries, pushes, runs

REDELIVERY_DEADLINE = timedelta(seconds=10)
"""Lost work is redelivered within this time."""

MAX_FIRST_RUN = timedelta(hours=1)
"""The first handlers of a delivery never run for so long."""

SCAN_INTERVAL = timedelta(seconds=1)
MAX_ROWS = 1000
"""How many rows of a kind are examined, the oldest first."""


class StuckReason(StrEnum):
    """Why something is stuck."""

    BATCH = "a batch of the inbox is neither queued nor running"
    """It was not redelivered: is `serve` running?"""
    WAITING = "deliveries wait in the inbox, and their queue has room"
    """Is `serve` running?"""
    RUN = "a run's job is neither queued nor running"
    """Is `clock` running?"""
    DUE = "a run is due, and has no job"
    """Is `clock` running?"""
    ORPHAN = "a delivery is running in the ledger, and missing from its inbox"
    """Nothing will ever settle it."""
    LOST = "a delivery was accepted by the inbox, and is neither there nor in the ledger"
    """Its body is lost."""


@dataclass(frozen=True, slots=True)
class StuckItem:
    """A batch, run or delivery that is stuck."""

    reason: StuckReason
    name: str


@dataclass(frozen=True, slots=True)
class OtherInboxes:
    """Deliveries of other inboxes that seem stuck, unless those inboxes still have them."""

    count: int
    examples: tuple[str, ...]
    inboxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OverduePushes:
    """Overdue pushes of a channel."""

    channel: str
    count: int
    oldest: str
    due_for: timedelta


def find_stuck(  # noqa: PLR0913 - the last three are for tests
    engine: Engine,
    connection: redis.Redis,
    outbox: Outbox | None,
    *,
    patience: timedelta = REDELIVERY_DEADLINE,
    grace: timedelta = LEASE_TIMEOUT,
    sleep: Callable[[float], None] = time.sleep,
) -> list[StuckItem]:
    """Scan repeatedly, and return what stays stuck for the deadline of redelivery.

    Returns at once when nothing is suspicious. Does not read other nodes' inboxes.
    Raises QueueUnavailable while Redis is unavailable.
    """
    scan = _Scan(engine, connection, outbox, grace)
    suspects = scan()  # the first one reads all that the inbox remembers, which may take long
    deadline = time.monotonic() + patience.total_seconds()
    while suspects and time.monotonic() < deadline:
        sleep(SCAN_INTERVAL.total_seconds())
        now = scan()
        suspects = {each: now[each] for each in suspects if each in now}
    return sorted(
        (each for each, is_alive in suspects.items() if not is_alive), key=lambda each: (each.reason, each.name)
    )


def other_inboxes(ledger: Connection, outbox: Outbox | None) -> OtherInboxes | None:
    """Find deliveries of other inboxes that have been running for longer than any first run takes."""
    is_other = (
        deliveries.c.inbox != (outbox.inbox_id if outbox is not None else ""),
        deliveries.c.stored_at < datetime.now(UTC) - MAX_FIRST_RUN,
        *_RUNNING_WITHOUT_RUNS,
    )
    by_inbox = select(deliveries.c.inbox, func.count()).where(*is_other).group_by(deliveries.c.inbox)
    counts = ledger.execute(by_inbox.order_by(deliveries.c.inbox)).all()
    first = select(deliveries.c.id).where(*is_other).order_by(deliveries.c.received_at, deliveries.c.id)
    examples = tuple(ledger.scalars(first.limit(EXAMPLES)))
    inboxes = tuple(inbox for inbox, _ in counts)
    return OtherInboxes(sum(count for _, count in counts), examples, inboxes) if counts else None


def overdue_pushes(ledger: Connection) -> Iterator[OverduePushes]:
    """Find the channels with pushes that are overdue; a claimed push is not due."""
    now = datetime.now(UTC)
    is_late = pushes.c.due_at < now - REDELIVERY_DEADLINE
    counts = select(pushes.c.channel, func.count()).where(is_late).group_by(pushes.c.channel)
    for channel, count in ledger.execute(counts.order_by(pushes.c.channel)).all():
        first = select(pushes.c.id, pushes.c.due_at).where(is_late, pushes.c.channel == channel)
        for oldest, due_at in ledger.execute(first.order_by(pushes.c.due_at, pushes.c.id).limit(1)):
            yield OverduePushes(channel, count, oldest, now - due_at)


class _Scan:
    """A scan of all work under way: what may be stuck, and whether its lease still beats."""

    def __init__(self, engine: Engine, connection: redis.Redis, outbox: Outbox | None, grace: timedelta) -> None:
        self._engine = engine
        self._connection = connection
        self._outbox = outbox
        self._batches = LeaseMonitor(connection, grace=grace)
        self._jobs = LeaseMonitor(connection, grace=grace)
        self._absent: list[str] | None = None

    def __call__(self) -> dict[StuckItem, bool]:
        """Return what may be stuck, each with whether its lease still beats."""
        found: dict[StuckItem, bool] = {}
        try:
            found |= self._inbox()
            found |= dict.fromkeys((StuckItem(StuckReason.LOST, name) for name in self._lost()), False)
            with read_only(self._engine) as ledger:
                found |= self._runs(ledger)
                found |= dict.fromkeys((StuckItem(StuckReason.DUE, name) for name in _overdue(ledger)), False)
                if self._outbox is not None:
                    found |= dict.fromkeys(self._orphans(ledger, self._outbox), False)
        except redis.RedisError as error:
            raise QueueUnavailable(f"the jobs cannot be read from Redis: {type(error).__name__}") from error
        return found

    def _inbox(self) -> dict[StuckItem, bool]:
        if self._outbox is None:
            return {}
        in_flight = {each.batch_id: each.queue for each in self._outbox.in_flight()}
        found = _not_queued(self._batches.poll(in_flight), StuckReason.BATCH)
        for name in QUEUES:
            oldest_at = self._outbox.oldest_waiting_at(name)
            if oldest_at is not None and len(queue(name, self._connection)) < MAX_WAITING_JOBS:
                found[StuckItem(StuckReason.WAITING, f"{name} since {oldest_at.isoformat()}")] = False
        return found

    def _lost(self) -> list[str]:
        """Read the inbox's memory once: what is missing then can only turn up in the ledger after that."""
        if self._outbox is None:
            return []
        if self._absent is None:
            self._absent = list(islice(missing_deliveries(self._engine, self._outbox), MAX_ROWS))
        else:
            self._absent = _unknown(self._engine, self._absent)
        return self._absent

    def _runs(self, ledger: Connection) -> dict[StuckItem, bool]:
        open_runs = [*run_schedule.enqueued(ledger), *run_schedule.running(ledger)]
        return _not_queued(self._jobs.poll({run.job_id: run.queue for run in open_runs if run.job_id}), StuckReason.RUN)

    def _orphans(self, ledger: Connection, outbox: Outbox) -> Iterator[StuckItem]:
        query = select(deliveries.c.id).where(deliveries.c.inbox == outbox.inbox_id, *_RUNNING_WITHOUT_RUNS)
        for delivery_id in ledger.scalars(query.order_by(deliveries.c.received_at).limit(MAX_ROWS)):
            if not outbox.unsettled(delivery_id, limit=1):
                yield StuckItem(StuckReason.ORPHAN, delivery_id)


_RUNNING_WITHOUT_RUNS = (
    has_state(DeliveryState.RUNNING),
    not_(exists().where(runs.c.delivery_id == deliveries.c.id)),
)


def missing_deliveries(engine: Engine, outbox: Outbox) -> Iterator[str]:
    """Yield the deliveries that the inbox remembers as settled, and the ledger does not have."""
    after = ""
    while ids := outbox.settled(after=after):
        yield from _unknown(engine, ids)
        after = ids[-1]


def _unknown(engine: Engine, ids: Sequence[str]) -> list[str]:
    # In a transaction that begins after the inbox was read: what was settled by then is in the ledger.
    with read_only(engine) as ledger:
        known = set(ledger.scalars(select(deliveries.c.id).where(in_list(deliveries.c.id, ids))))
    return [delivery_id for delivery_id in ids if delivery_id not in known]


def _not_queued(states: dict[str, JobState], reason: StuckReason) -> dict[StuckItem, bool]:
    return {
        StuckItem(reason, job_id): state is JobState.RUNNING
        for job_id, state in states.items()
        if state is not JobState.QUEUED
    }


def _overdue(ledger: Connection) -> Iterator[str]:
    ahead = runs.alias()
    waits_for_a_job = exists().where(
        ahead.c.due_at.is_not(None),
        ahead.c.job_id.is_not(None),
        ahead.c.queue == runs.c.queue,
        ahead.c.handler == runs.c.handler,
    )
    query = (
        select(runs.c.delivery_id, runs.c.handler, runs.c.attempts)
        .where(runs.c.due_at <= datetime.now(UTC), runs.c.job_id.is_(None), not_(waits_for_a_job))
        .order_by(runs.c.due_at)
    )
    for delivery_id, handler, attempts in ledger.execute(query.limit(MAX_ROWS)):
        yield f"{delivery_id} {handler} attempt {attempts + 1}"
