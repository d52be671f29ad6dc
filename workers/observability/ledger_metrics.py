"""Gauges of the ledger: what waits, since when, what was given up, and which alerts are open.

Each number is of a query on an index that reads MAX_COUNTED rows at most: beyond these it says MAX_COUNTED.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Column, Connection, Engine, Select, func, literal_column, select

from ingest.wire.timestamps import utc_now
from workers.alerts.alerts import AlertKind
from workers.ledger.alert_queries import IS_DEAD, handlers_of_dead
from workers.ledger.database.transaction import LedgerUnavailable, read_once
from workers.ledger.deliveries import has_state
from workers.ledger.states import DeliveryState
from workers.ledger.tables.alert_tables import OPEN, alerts
from workers.ledger.tables.core_tables import deliveries, pushes, runs

MAX_COUNTED = 10_000
UNSETTLED = (DeliveryState.RUNNING, DeliveryState.RETRYING)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits under one name: how many, and since when the oldest."""

    count: int
    since: datetime


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What the ledger says of work that is not done."""

    unsettled: Mapping[str, Waiting]
    """Deliveries by state, since they were received."""
    due_runs: Mapping[str, Waiting]
    """Runs that wait for a worker, by queue, since they were due."""
    waiting_pushes: Mapping[str, Waiting]
    """Pushes that are not sent yet, by channel, since they were made."""
    dead_letters: Mapping[str, int]
    """By handler."""
    open_alerts: Mapping[str, Waiting]
    """By kind, since they were raised."""


def read_state(ledger: Connection, now: datetime) -> LedgerState:
    """Read all numbers."""
    due = select(runs.c.queue, runs.c.due_at).where(runs.c.due_at <= now).order_by(runs.c.due_at)
    waiting = select(pushes.c.channel, pushes.c.created_at).where(pushes.c.due_at.is_not(None))
    # With a time that its index of all alerts lacks, so that SQLite takes the one of open alerts.
    unresolved = select(alerts.c.kind, alerts.c.raised_at).where(OPEN)
    return LedgerState(
        unsettled={name: each for state in UNSETTLED for name, each in _unsettled(ledger, state).items()},
        due_runs=_by_name(ledger, due, runs.c.due_at),
        waiting_pushes=_by_name(ledger, waiting.order_by(pushes.c.due_at), pushes.c.created_at),
        dead_letters={handler: _dead_letters(ledger, handler) for handler in handlers_of_dead(ledger)},
        open_alerts=_by_name(ledger, unresolved, alerts.c.raised_at),
    )


class LedgerCollector(Collector):
    """Reads the ledger for each collection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Return whether the ledger can be read, and its numbers if it can."""
        now = utc_now()
        try:
            state = read_once(self._engine, lambda ledger: read_state(ledger, now))
        except LedgerUnavailable:
            state = None
        yield GaugeMetricFamily("webhooks_ledger_up", "Whether the ledger can be read", value=state is not None)
        yield from format_state(state, now)


def format_state(state: LedgerState | None, now: datetime) -> Iterator[Metric]:
    """Return the gauges of a state; without values if it is unknown."""
    known = state or LedgerState({}, {}, {}, {}, {})
    for name, what, label, waiting in (
        ("deliveries", "Deliveries with runs that have not ended", "state", known.unsettled),
        ("runs", "Runs that are due and have not begun", "queue", known.due_runs),
        ("pushes", "Pushes that are not sent yet", "channel", known.waiting_pushes),
    ):
        ages = {key: max(0.0, (now - each.since).total_seconds()) for key, each in waiting.items()}
        yield gauge(f"webhooks_{name}_waiting", what, label, _counts(waiting))
        yield gauge(f"webhooks_{name}_oldest_waiting_seconds", f"{what}: the age of the oldest", label, ages)
    yield gauge("webhooks_dead_letters", "Runs that were given up and not replayed", "handler", known.dead_letters)
    # A kind without an open alert is a zero, so that an alert on it resolves.
    kinds: dict[str, float] = dict.fromkeys(AlertKind, 0) if state is not None else {}
    yield gauge("webhooks_alerts_open", "Alerts that are not resolved", "kind", {**kinds, **_counts(known.open_alerts)})


def gauge(name: str, documentation: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """Return a gauge with one label."""
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counts(waiting: Mapping[str, Waiting]) -> dict[str, float]:
    return {name: each.count for name, each in waiting.items()}


def _unsettled(ledger: Connection, state: DeliveryState) -> dict[str, Waiting]:
    found = select(literal_column(f"'{state}'").label("state"), deliveries.c.received_at)
    query = found.where(has_state(state)).order_by(deliveries.c.received_at)
    return _by_name(ledger, query, deliveries.c.received_at)


def _by_name(ledger: Connection, query: Select[tuple[str, datetime]], since: Column[datetime]) -> dict[str, Waiting]:
    """Count the rows of a query of names and times, and find the earliest time of each name."""
    rows = query.limit(MAX_COUNTED).subquery()
    name, at = rows.c
    grouped = select(name, func.count(), func.min(at, type_=since.type)).group_by(name)
    return {key: Waiting(count, earliest) for key, count, earliest in ledger.execute(grouped)}


def _dead_letters(ledger: Connection, handler: str) -> int:
    rows = select(runs.c.finished_at).where(IS_DEAD, runs.c.handler == handler).limit(MAX_COUNTED).subquery()
    return ledger.scalar(select(func.count()).select_from(rows)) or 0
