"""What is unsettled and on nobody's list: neither queued, nor leased, nor scheduled, nor waiting in the inbox."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import redis
from sqlalchemy import Connection, Engine, exists, not_, select

from ingest.broker import QUEUES, queue
from ingest.errors import QueueUnavailable
from ingest.lease import GRACE, JobWatch, Standing
from ingest.outbox import Outbox
from ingest.rounds import ENOUGH_JOBS
from workers.ledger import schedule
from workers.ledger.engine import reading
from workers.ledger.outcomes import DeliveryState
from workers.ledger.tables import deliveries, runs

PROMISED = timedelta(seconds=10)
"""After so long, whatever was lost is offered again."""

LOOK_EVERY = timedelta(seconds=1)
MOST = 1000
"""How many rows of a kind are looked at, those that have waited longest."""


class Trouble(StrEnum):
    """What is wrong with something that nobody carries."""

    BATCH = "a batch of the inbox is neither queued nor worked on"
    """Nor was it offered again: is `serve` running?"""
    WAITING = "deliveries wait in the inbox, and their queue has room"
    """Is `serve` running?"""
    RUN = "a run's job is neither queued nor worked on"
    """Is `clock` running?"""
    DUE = "a run is due, and has no job"
    """Is `clock` running?"""
    ORPHAN = "a delivery is at work, says the ledger, and its inbox does not have it"
    """Nothing will ever settle it."""


@dataclass(frozen=True, slots=True)
class Adrift:
    """Something that nobody carries."""

    trouble: Trouble
    name: str


def adrift(  # noqa: PLR0913 - the last three are for tests
    engine: Engine,
    connection: redis.Redis,
    outbox: Outbox | None,
    *,
    patience: timedelta = PROMISED,
    grace: timedelta = GRACE,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Adrift]:
    """Look again and again at what nobody seems to carry, and return what stays so for as long as was promised.

    Comes back at once when everything is on a queue or settled. Other nodes' inboxes are not looked into.
    Raises QueueUnavailable if Redis cannot be asked.
    """
    look = _Look(engine, connection, outbox, grace)
    until = time.monotonic() + patience.total_seconds()
    suspects = look()
    while suspects and time.monotonic() < until:
        sleep(LOOK_EVERY.total_seconds())
        now = look()
        suspects = {each: now[each] for each in suspects if each in now}
    return sorted(
        (each for each, is_alive in suspects.items() if not is_alive), key=lambda each: (each.trouble, each.name)
    )


class _Look:
    """One look at everything that is on its way. What is surely on a queue is left out; what beats is marked alive."""

    def __init__(self, engine: Engine, connection: redis.Redis, outbox: Outbox | None, grace: timedelta) -> None:
        self._engine = engine
        self._connection = connection
        self._outbox = outbox
        self._batches = JobWatch(connection, grace=grace)
        self._jobs = JobWatch(connection, grace=grace)

    def __call__(self) -> dict[Adrift, bool]:
        """Tell what may be adrift, and of each whether it shows signs of life."""
        found: dict[Adrift, bool] = {}
        try:
            found |= self._inbox()
            with reading(self._engine) as ledger:
                found |= self._runs(ledger)
                found |= dict.fromkeys((Adrift(Trouble.DUE, name) for name in _overdue(ledger)), False)
                if self._outbox is not None:
                    found |= dict.fromkeys(self._orphans(ledger, self._outbox), False)
        except redis.RedisError as error:
            raise QueueUnavailable(f"Redis cannot be asked about jobs: {type(error).__name__}") from error
        return found

    def _inbox(self) -> dict[Adrift, bool]:
        if self._outbox is None:
            return {}
        in_flight = {each.batch_id: each.queue for each in self._outbox.in_flight()}
        found = _unsure(self._batches.look(in_flight), Trouble.BATCH)
        for name in QUEUES:
            oldest_at = self._outbox.oldest_waiting_at(name)
            if oldest_at is not None and len(queue(name, self._connection)) < ENOUGH_JOBS:
                found[Adrift(Trouble.WAITING, f"{name} since {oldest_at.isoformat()}")] = False
        return found

    def _runs(self, ledger: Connection) -> dict[Adrift, bool]:
        open_runs = [*schedule.offered(ledger), *schedule.running(ledger)]
        return _unsure(self._jobs.look({run.job_id: run.queue for run in open_runs if run.job_id}), Trouble.RUN)

    def _orphans(self, ledger: Connection, outbox: Outbox) -> Iterator[Adrift]:
        query = select(deliveries.c.id).where(
            deliveries.c.state == DeliveryState.RUNNING,
            deliveries.c.inbox == outbox.inbox_id,
            not_(exists().where(runs.c.delivery_id == deliveries.c.id)),
        )
        for delivery_id in ledger.scalars(query.order_by(deliveries.c.received_at).limit(MOST)):
            if not outbox.unsettled(delivery_id, limit=1):
                yield Adrift(Trouble.ORPHAN, delivery_id)


def _unsure(standings: dict[str, Standing], trouble: Trouble) -> dict[Adrift, bool]:
    return {
        Adrift(trouble, job_id): standing is Standing.RUNNING
        for job_id, standing in standings.items()
        if standing is not Standing.QUEUED
    }


def _overdue(ledger: Connection) -> Iterator[str]:
    query = (
        select(runs.c.delivery_id, runs.c.handler, runs.c.attempts)
        .where(runs.c.due_at <= datetime.now(UTC), runs.c.job_id.is_(None))
        .order_by(runs.c.due_at)
    )
    for delivery_id, handler, attempts in ledger.execute(query.limit(MOST)):
        yield f"{delivery_id} {handler} attempt {attempts + 1}"
