"""Count what happened in a span: events, deliveries, runs, warnings, pushes, authorizations, and how long it took."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, func, select

from ingest.queue.batch import DRIVE_API
from workers.ledger import fee_warnings
from workers.ledger.database.conditions import Unindexed, within
from workers.ledger.fee_warnings import WarningFilters
from workers.ledger.recorded_runs import SEPARATOR
from workers.ledger.run_schedule import IS_RUNNING
from workers.ledger.runs import handlers_of
from workers.ledger.states import FINAL_OUTCOMES, Outcome
from workers.ledger.tables.authorization_tables import authorizations
from workers.ledger.tables.core_tables import deliveries, pushes, runs

MAX_MEASURED = 1_000
"""Of more than so many, the latest are measured."""

Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took, of at most MAX_MEASURED."""

    count: int
    p50: timedelta | None
    p99: timedelta | None

    @classmethod
    def of(cls, spans: Iterable[timedelta]) -> "Latency":
        """Return the quantiles of some spans, each of them one that was measured."""
        ordered = sorted(spans)
        p50, p99 = (ordered[ceil(part * len(ordered)) - 1] if ordered else None for part in (0.5, 0.99))
        return cls(len(ordered), p50, p99)


@dataclass(frozen=True, slots=True)
class SpanStats:
    """What happened in a span, by the time of receipt; pushes by when they were made, authorizations by their time.

    Runs by when they ended, those that have not ended by the receipt of their delivery; also those of healed events.
    """

    since: datetime
    until: datetime
    events: Counts
    """By name; what has none by its kind."""
    deliveries: Counts
    """By state. What the ledger has not seen yet is not among them."""
    runs: Mapping[str, Counts]
    """By handler and outcome."""
    warnings: Counts
    """By outcome."""
    pushes: Mapping[str, Counts]
    """By channel and state."""
    authorizations: Counts
    """By answer."""
    latency: Mapping[str, Latency]
    """From receipt to settled, from receipt to a push that was taken, and of the answers to authorization requests."""


def read_stats(conn: Connection, since: datetime, until: datetime, *, with_runs: bool = True) -> SpanStats:
    """Count what happened in a span. Counting the runs may be left out."""
    received = [*within(deliveries.c.received_at, since, until), deliveries.c.inbox != DRIVE_API]
    events: Counter[str] = Counter()
    states: Counter[str] = Counter()
    recorded: Counter[str] = Counter()
    columns = deliveries.c.event, deliveries.c.kind, deliveries.c.state, deliveries.c.recorded_by
    for event, kind, state, recorded_by, count in conn.execute(_grouped(*columns).where(*received)):
        events[event or kind] += count
        states[str(state)] += count
        recorded[recorded_by or ""] += count
    made = within(pushes.c.created_at, since, until)
    asked = within(authorizations.c.at, since, until)
    warned = fee_warnings.find(conn, WarningFilters(since=since, until=until), until)
    return SpanStats(
        since=since,
        until=until,
        events=dict(events.most_common()),
        deliveries=dict(states),
        runs=_runs(conn, since, until, recorded) if with_runs else {},
        warnings=dict(Counter(str(each.outcome) for each in warned)),
        pushes=_by_two(conn, (pushes.c.channel, pushes.c.state), made),
        authorizations=_by_one(conn, authorizations.c.decision, asked),
        latency={
            "received_to_settled": _settled(conn, received),
            "received_to_push": _pushed(conn, made),
            "authorization": _authorized(conn, asked),
        },
    )


def _runs(conn: Connection, since: datetime, until: datetime, names: Counter[str]) -> dict[str, dict[str, int]]:
    """Count runs, those without a row by how many deliveries have which value of `recorded_by`."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    ended = [runs.c.handler.in_(handlers_of(conn)), *within(runs.c.finished_at, since, until)]
    queries = [_grouped(runs.c.handler, runs.c.outcome).where(*ended, runs.c.outcome.in_(FINAL_OUTCOMES))]
    # Open runs are few: an index finds them all, and their deliveries are looked up.
    received = within(Unindexed(deliveries.c.received_at), since, until)
    for is_open in (runs.c.due_at.is_not(None), IS_RUNNING):
        query = _grouped(Unindexed(runs.c.handler), runs.c.outcome).where(is_open, *received)
        queries.append(query.join_from(runs, deliveries, deliveries.c.id == runs.c.delivery_id))
    for query in queries:
        for handler, outcome, count in conn.execute(query):
            counts[handler][str(outcome)] += count
    for recorded_by, count in names.items():
        for handler in filter(None, recorded_by.split(SEPARATOR)):
            counts[handler][Outcome.DONE.value] += count
    return {handler: dict(outcomes) for handler, outcomes in counts.items()}


def _grouped(*columns: ColumnElement[Any]) -> Select[Any]:
    return select(*columns, func.count()).group_by(*columns)


def _by_two(
    conn: Connection, columns: tuple[Column[Any], Column[Any]], where: Sequence[ColumnElement[bool]]
) -> dict[str, dict[str, int]]:
    return _nested(conn.execute(_grouped(*columns).where(*where)))


def _by_one(conn: Connection, column: Column[Any], where: Sequence[ColumnElement[bool]]) -> dict[str, int]:
    return {str(value): count for value, count in conn.execute(_grouped(column).where(*where))}


def _nested(rows: Iterable[Any]) -> dict[str, dict[str, int]]:
    nested: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for first, second, count in rows:
        nested[str(first)][str(second)] = count
    return dict(nested)


def _settled(conn: Connection, received: Sequence[ColumnElement[bool]]) -> Latency:
    query = select(deliveries.c.received_at, deliveries.c.settled_at).where(*received)
    return _measure(conn, query, deliveries.c.received_at, deliveries.c.settled_at)


def _pushed(conn: Connection, made: Sequence[ColumnElement[bool]]) -> Latency:
    joined = pushes.join(deliveries, deliveries.c.id == pushes.c.delivery_id)
    query = select(deliveries.c.received_at, pushes.c.sent_at).select_from(joined).where(*made)
    return _measure(conn, query, pushes.c.created_at, pushes.c.sent_at)


def _measure(conn: Connection, query: Any, order: Column[datetime], end: Column[Any]) -> Latency:
    latest = query.where(Unindexed(end).is_not(None)).order_by(order.desc()).limit(MAX_MEASURED)
    # An event that was read again long after may have been settled before it: clocks differ.
    return Latency.of(max(timedelta(), ended - began) for began, ended in conn.execute(latest))


def _authorized(conn: Connection, asked: Sequence[ColumnElement[bool]]) -> Latency:
    query = select(authorizations.c.latency_us).where(*asked).order_by(authorizations.c.at.desc())
    return Latency.of(timedelta(microseconds=each) for each in conn.scalars(query.limit(MAX_MEASURED)))
