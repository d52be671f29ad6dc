"""Deliveries: stored once, however often they arrive, and found by a person's filters."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    and_,
    case,
    exists,
    func,
    literal_column,
    select,
    update,
)

from ingest.queue.batch import Delivery
from workers.ledger.database.bulk_insert import insert_new
from workers.ledger.database.conditions import Position, begins_with, in_list, matching, older_than, same_person, within
from workers.ledger.database.engine import insert_into
from workers.ledger.runs import RunRecord
from workers.ledger.states import OPEN_OUTCOMES, BodyDeletion, DeliveryState, Outcome
from workers.ledger.tables.core_tables import COMMON_EVENTS, deliveries, receipts, runs, sessions

ARRIVED = tuple(name for name in Delivery.__dataclass_fields__ if name != "receipts")
arrived_values = attrgetter(*ARRIVED)
# Literals, not parameters: both databases use their partial index for these only.
IS_RARE = deliveries.c.event.not_in([literal_column(f"'{event}'") for event in sorted(COMMON_EVENTS)])


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery as the ledger knows it, with its runs ordered by handler."""

    id: str
    kind: str
    event: str | None
    session_id: str | None
    received_at: datetime
    signed_with: str
    signed_at: datetime | None
    headers: Mapping[str, str]
    inbox: str
    state: DeliveryState
    reason: str | None
    stored_at: datetime
    settled_at: datetime | None
    duplicates: int
    body_deleted_at: datetime | None = None
    body_deletion: BodyDeletion | None = None
    runs: tuple[RunRecord, ...] = ()
    #: The raw bytes, where they were asked for.
    body: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilters:
    """Which deliveries to find; all that is set must match, `handler` and `outcome` in the same run."""

    state: DeliveryState | None = None
    event: str | None = None
    session_id: str | None = None
    person: str | None = None
    """The driver of its session, in any case."""
    handler: str | None = None
    outcome: Outcome | None = None
    signed_with: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def store(
    conn: Connection, arrived: Sequence[Delivery], states: Mapping[str, tuple[DeliveryState, str | None]]
) -> set[str]:
    """Store new deliveries and return their ids; count repeated receipts.

    `states` has the first state of each delivery with a body, and the reason if it is unreadable.
    """
    now = datetime.now(UTC)
    first: dict[str, Delivery] = {}
    for delivery in arrived:
        if delivery.body is not None:
            first.setdefault(delivery.id, delivery)
    rows = [_row(delivery, *states[delivery.id], now) for delivery in first.values()]
    new = {key for (key,) in insert_new(conn, deliveries, rows)}
    repeats = [one for one in arrived if one.receipts > 1 or one.id not in new or one is not first[one.id]]
    _count_receipts(conn, repeats)
    return new


def settled(conn: Connection, ids: Collection[str]) -> set[str]:
    """Return the deliveries without an open run."""
    is_settled = deliveries.c.settled_at.is_not(None)
    return set(conn.scalars(select(deliveries.c.id).where(in_list(deliveries.c.id, ids), is_settled)))


def fetch(conn: Connection, ids: Collection[str]) -> list[Delivery]:
    """Return deliveries as they arrived, in the order of their arrival."""
    rows = conn.execute(select(*(deliveries.c[name] for name in ARRIVED)).where(in_list(deliveries.c.id, ids)))
    found = [Delivery(**row._mapping, receipts=1) for row in rows]  # noqa: SLF001 - public, despite its name
    return sorted(found, key=lambda delivery: (delivery.received_at, delivery.id))


def received_at(conn: Connection, ids: Collection[str]) -> dict[str, datetime]:
    """Return when each of these deliveries was received."""
    found = conn.execute(select(deliveries.c.id, deliveries.c.received_at).where(in_list(deliveries.c.id, ids)))
    return {row.id: row.received_at for row in found}


def find(
    conn: Connection, filters: DeliveryFilters, limit: int | None, before: Position | None = None
) -> list[DeliveryRow]:
    """List deliveries with their runs, newest first; those behind a position are the next page."""
    query = _select().where(*_conditions(filters), *older_than(deliveries.c.received_at, deliveries.c.id, before))
    newest = query.order_by(deliveries.c.received_at.desc(), deliveries.c.id).limit(limit)
    return _with_runs(conn, conn.execute(newest).all())


def find_ids(conn: Connection, filters: DeliveryFilters, limit: int | None = None) -> list[str]:
    """List ids only, oldest first, as a replay needs them."""
    query = select(deliveries.c.id).order_by(deliveries.c.received_at, deliveries.c.id).limit(limit)
    return list(conn.scalars(query.where(*_conditions(filters))))


def filter_matching(conn: Connection, ids: Collection[str], filters: DeliveryFilters) -> set[str]:
    """Return the ids of these deliveries that match the filters now."""
    return set(conn.scalars(select(deliveries.c.id).where(in_list(deliveries.c.id, ids), *_conditions(filters))))


def get(conn: Connection, delivery_id: str) -> DeliveryRow | None:
    """Return a delivery with its runs and its raw body."""
    rows = get_many(conn, [delivery_id], bodies=True)
    return rows[0] if rows else None


def get_many(conn: Connection, ids: Collection[str], *, bodies: bool = False) -> list[DeliveryRow]:
    """Return the known ones of these deliveries with their runs, and with their raw bodies if wanted."""
    query = _select().add_columns(deliveries.c.body) if bodies else _select()
    return _with_runs(conn, conn.execute(query.where(in_list(deliveries.c.id, ids))).all())


def mark_decoded(conn: Connection, delivery_id: str, event: str | None, session_id: str | None) -> None:
    """Record the event of a delivery that was unreadable before."""
    this = update(deliveries).where(deliveries.c.id == delivery_id)
    conn.execute(this.values(event=event, session_id=session_id, reason=None))


def is_event(*names: str) -> ColumnElement[bool]:
    """Build the condition that a delivery is one of these events, so that the index of the rare ones is used."""
    condition = deliveries.c.event.in_(names) if len(names) > 1 else deliveries.c.event == names[0]
    return and_(condition, IS_RARE) if COMMON_EVENTS.isdisjoint(names) else condition


def receipt_count(of: FromClause = deliveries) -> ColumnElement[int]:
    """Build the number of repeated receipts on all nodes: an expression for a query of deliveries or their alias."""
    seen = receipts.c.delivery_id == of.c.id
    counted = select(func.coalesce(func.sum(receipts.c.receipts), 0)).where(seen).scalar_subquery()
    by_first_inbox = exists().where(seen, receipts.c.inbox == of.c.inbox)
    # A count of the inbox that delivered it includes the first receipt.
    return counted - case((by_first_inbox, 1), else_=0)


def resolve_id(conn: Connection, prefix: str) -> str | None:
    """Return the only id with this prefix; None if there is none, or more than one."""
    found = conn.scalars(select(deliveries.c.id).where(begins_with(conn, deliveries.c.id, prefix)).limit(2)).all()
    return found[0] if len(found) == 1 else None


def _row(delivery: Delivery, state: DeliveryState, reason: str | None, now: datetime) -> dict[str, Any]:
    return {
        **dict(zip(ARRIVED, arrived_values(delivery), strict=True)),
        "state": state,
        "reason": reason,
        "stored_at": now,
        "settled_at": now if state.is_ended else None,
        "body_deleted_at": None,
        "body_deletion": None,
    }


def _count_receipts(conn: Connection, repeats: Iterable[Delivery]) -> None:
    counts: dict[tuple[str, str], int] = {}
    for delivery in repeats:
        key = (delivery.id, delivery.inbox)
        counts[key] = max(counts.get(key, 1), delivery.receipts)
    if not counts:
        return
    new = insert_into(conn, receipts)
    grown = new.on_conflict_do_update(
        index_elements=[receipts.c.delivery_id, receipts.c.inbox],
        set_={"receipts": new.excluded.receipts},
        where=new.excluded.receipts > receipts.c.receipts,
    )
    ordered = sorted(counts.items())
    conn.execute(grown, [{"delivery_id": key, "inbox": inbox, "receipts": count} for (key, inbox), count in ordered])


def _select() -> Select[Any]:
    columns = [column for column in deliveries.c if column.name != "body"]
    return select(*columns, receipt_count().label("duplicates"))


def _conditions(filters: DeliveryFilters) -> list[ColumnElement[bool]]:
    conditions = within(deliveries.c.received_at, filters.since, filters.until)
    conditions += matching(deliveries, state=filters.state, session_id=filters.session_id)
    conditions += matching(deliveries, signed_with=filters.signed_with)
    if filters.event is not None:
        conditions.append(is_event(filters.event))
    if filters.person is not None:
        theirs = select(sessions.c.session_id).where(same_person(sessions.c.user_id, filters.person))
        conditions.append(deliveries.c.session_id.in_(theirs))
    of_run = matching(runs, handler=filters.handler, outcome=filters.outcome)
    if filters.outcome is Outcome.DEAD or filters.outcome in OPEN_OUTCOMES:
        # Few runs, each in a partial index of its kind: deliveries are looked up by them, and not the other way round.
        of_run.append(runs.c.outcome == literal_column(f"'{filters.outcome}'"))
        if filters.outcome in {Outcome.WAITING, Outcome.AGAIN}:
            of_run.append(runs.c.due_at.is_not(None))
        return [*conditions, deliveries.c.id.in_(select(runs.c.delivery_id).where(*of_run))]
    return [*conditions, exists().where(runs.c.delivery_id == deliveries.c.id, *of_run)] if of_run else conditions


def _with_runs(conn: Connection, found: Sequence[Row[Any]]) -> list[DeliveryRow]:
    by_delivery: dict[str, list[RunRecord]] = {row.id: [] for row in found}
    query = select(*(runs.c[name] for name in RunRecord.__dataclass_fields__))
    query = query.where(in_list(runs.c.delivery_id, by_delivery)).order_by(runs.c.delivery_id, runs.c.handler)
    for run in conn.execute(query):
        by_delivery[run.delivery_id].append(RunRecord(**run._mapping))  # noqa: SLF001 - public, despite its name
    return [DeliveryRow(**row._mapping, runs=tuple(by_delivery[row.id])) for row in found]  # noqa: SLF001 - public, despite its name
