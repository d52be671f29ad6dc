"""Deliveries: stored once, however often they arrive, and found by a person's filters."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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
    or_,
    select,
    update,
)

from ingest.queue.batch import DRIVE_API, Delivery
from workers.ledger import signature_key_usage
from workers.ledger.database.bulk_insert import insert_new
from workers.ledger.database.conditions import Position, begins_with, in_list, matching, older_than, same_person, within
from workers.ledger.database.engine import insert_into
from workers.ledger.recorded_runs import is_recorded_by, recorded_runs
from workers.ledger.runs import RunRecord
from workers.ledger.states import OPEN_OUTCOMES, BodyDeletion, DeliveryState, Outcome
from workers.ledger.tables.core_tables import COMMON_EVENTS, USUAL_RECORD, deliveries, receipts, runs, sessions

FEW = 1000
"""Runs of a handler that are looked up one by one."""
CLOCKS_DIFFER_BY = timedelta(hours=1)
"""At most, between the node that received a delivery and the one that ran its handler."""
ARRIVED = tuple(name for name in Delivery.__dataclass_fields__ if name != "receipts")
arrived_values = attrgetter(*ARRIVED)
SETTLED: ColumnElement[str] = literal_column(f"'{DeliveryState.SETTLED}'")
NOT_RECORDED: Mapping[str, str] = {}
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
    recorded_by: str | None = None
    """The record functions whose runs have no row; they are among `runs`."""
    runs: tuple[RunRecord, ...] = ()
    #: The raw bytes, where they were asked for.
    body: bytes | None = None

    @property
    def is_healed(self) -> bool:
        """Whether nobody sent it: it is made from what was read at the Drive API."""
        return self.inbox == DRIVE_API


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
    conn: Connection,
    arrived: Sequence[Delivery],
    states: Mapping[str, tuple[DeliveryState, str | None]],
    recorded_by: Mapping[str, str] = NOT_RECORDED,
) -> set[str]:
    """Store new deliveries and return their ids; count repeated receipts.

    `states` has the first state of each delivery with a body, and the reason if it is unreadable; `recorded_by` the
    names of the record functions that have succeeded on it, as `recorded_runs.join_names` joins them.
    """
    now = datetime.now(UTC)
    first: dict[str, Delivery] = {}
    for delivery in arrived:
        if delivery.body is not None:
            first.setdefault(delivery.id, delivery)
    rows = [_row(each, *states[each.id], recorded_by.get(each.id), now) for each in first.values()]
    new = {key for (key,) in insert_new(conn, deliveries, rows)}
    signature_key_usage.count(conn, [first[key] for key in new])
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
    conditions = _conditions(conn, filters, is_page=limit is not None)
    query = _select().where(*conditions, *older_than(deliveries.c.received_at, deliveries.c.id, before))
    newest = query.order_by(deliveries.c.received_at.desc(), deliveries.c.id).limit(limit)
    return _with_runs(conn, conn.execute(newest).all())


def find_ids(conn: Connection, filters: DeliveryFilters, limit: int | None = None) -> list[str]:
    """List ids only, oldest first, as a replay needs them."""
    query = select(deliveries.c.id).order_by(deliveries.c.received_at, deliveries.c.id).limit(limit)
    return list(conn.scalars(query.where(*_conditions(conn, filters))))


def filter_matching(conn: Connection, ids: Collection[str], filters: DeliveryFilters) -> set[str]:
    """Return the ids of these deliveries that match the filters now."""
    return set(conn.scalars(select(deliveries.c.id).where(in_list(deliveries.c.id, ids), *_conditions(conn, filters))))


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


def has_state(state: DeliveryState) -> ColumnElement[bool]:
    """Build the condition that a delivery is in this state, so that the index of those not settled is used."""
    condition = deliveries.c.state == state
    # In words of the index: SQLite does not conclude it, nor does PostgreSQL from a parameter.
    return condition if state is DeliveryState.SETTLED else and_(condition, deliveries.c.state != SETTLED)


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


def _row(
    delivery: Delivery, state: DeliveryState, reason: str | None, recorded_by: str | None, now: datetime
) -> dict[str, Any]:
    return {
        **dict(zip(ARRIVED, arrived_values(delivery), strict=True)),
        "state": state,
        "reason": reason,
        "stored_at": now,
        "settled_at": now if state.is_ended else None,
        "body_deleted_at": None,
        "body_deletion": None,
        "recorded_by": recorded_by,
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


def _conditions(conn: Connection, filters: DeliveryFilters, *, is_page: bool = False) -> list[ColumnElement[bool]]:
    conditions = within(deliveries.c.received_at, filters.since, filters.until)
    conditions += matching(deliveries, session_id=filters.session_id)
    if filters.signed_with is not None:
        conditions.append(signature_key_usage.is_signed_with(filters.signed_with))
    if filters.state is not None:
        conditions.append(has_state(filters.state))
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
    if not of_run:
        return conditions
    if filters.handler is not None:
        conditions += _near_runs(conn, filters.handler)
    return [*conditions, _has_run(conn, filters, of_run, is_page=is_page)]


def _has_run(
    conn: Connection, filters: DeliveryFilters, of_run: Sequence[ColumnElement[bool]], *, is_page: bool
) -> ColumnElement[bool]:
    """Build the condition that a delivery has such a run, with a row or without."""
    this: Select[Any] = select(literal_column("1")).where(runs.c.delivery_id == deliveries.c.id, *of_run)
    if is_page and conn.dialect.name == "postgresql":
        # With an OFFSET, PostgreSQL looks up the runs of the newest deliveries, and does not list all of the handler.
        this = this.offset(0)
    has_row = exists(this.correlate(deliveries))
    if filters.outcome not in {None, Outcome.DONE}:
        return has_row
    is_recorded = deliveries.c.recorded_by.is_not(None)
    return or_(is_recorded if filters.handler is None else is_recorded_by(filters.handler), has_row)


def _near_runs(conn: Connection, handler: str) -> Iterator[ColumnElement[bool]]:
    """Yield conditions that narrow a search by handler: to few deliveries, else to those before its last run ended."""
    # Nearly all deliveries are recorded by the one function that is usual; those of others are in an index.
    by_others = deliveries.c.recorded_by != literal_column(f"'{USUAL_RECORD}'")
    if handler == USUAL_RECORD or conn.scalar(select(exists().where(by_others, is_recorded_by(handler)))):
        return
    of_handler = select(runs.c.delivery_id, runs.c.finished_at).where(runs.c.handler == handler)
    latest = conn.execute(of_handler.order_by(runs.c.finished_at.desc()).limit(FEW + 1)).all()
    if len(latest) <= FEW:
        yield in_list(deliveries.c.id, [row.delivery_id for row in latest])
    elif all(row.finished_at is not None for row in latest):
        yield deliveries.c.received_at <= latest[0].finished_at + CLOCKS_DIFFER_BY


def _with_runs(conn: Connection, found: Sequence[Row[Any]]) -> list[DeliveryRow]:
    by_delivery: dict[str, dict[str, RunRecord]] = {
        row.id: {run.handler: run for run in recorded_runs(row.id, row.recorded_by, row.stored_at)} for row in found
    }
    query = select(*(runs.c[name] for name in RunRecord.__dataclass_fields__))
    query = query.where(in_list(runs.c.delivery_id, by_delivery))
    for run in conn.execute(query):
        by_delivery[run.delivery_id][run.handler] = RunRecord(**run._mapping)  # noqa: SLF001 - public, despite its name
    ordered = {key: tuple(by_name[name] for name in sorted(by_name)) for key, by_name in by_delivery.items()}
    return [DeliveryRow(**row._mapping, runs=ordered[row.id]) for row in found]  # noqa: SLF001 - public, despite its name
