"""Find and sum up CDRs for a person, and which of them are in conflict."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select

from handlers.kit.cdr_table import cdrs
from handlers.kit.field_extraction import total
from ingest.wire.envelope import Kind
from workers.ledger.database.conditions import matching, within
from workers.ledger.deliveries import receipt_count
from workers.ledger.states import DeliveryState
from workers.ledger.tables.core_tables import deliveries, sessions

FETCH_SIZE = 1000
"""Rows fetched at once, so that a long list takes no more memory than a short one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CdrFilters:
    """Which CDRs to find; all that is set must match."""

    session_id: str | None = None
    user_id: str | None = None
    request_id: str | None = None
    keys: Sequence[str] | None = None
    """The spellings of a charging key."""
    since: datetime | None = None
    until: datetime | None = None
    in_conflict: bool = False
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class CdrRow:
    """A CDR as the ledger knows it."""

    delivery_id: str
    request_id: str | None
    session_id: str | None
    user_id: str | None
    """The user of the CDR, else of its session."""
    charging_key: str | None
    amount: Decimal | None
    currency: str | None
    energy_kwh: Decimal | None
    started_at: datetime | None
    ended_at: datetime | None
    location: str | None
    operator: str | None
    notes: tuple[str, ...]
    received_at: datetime
    session_status: str | None
    """None while its session is unknown."""
    in_conflict: bool
    """Whether another CDR has the same request id, and other bytes."""
    duplicates: int
    """How often the same bytes came again, on any node."""


@dataclass(frozen=True, slots=True)
class CurrencyTotal:
    """The total of the CDRs in one currency; those in conflict are also counted separately."""

    currency: str | None
    cdrs: int
    amount: Decimal
    in_conflict: int
    amount_in_conflict: Decimal
    without_amount: int


@dataclass(frozen=True, slots=True)
class CdrSummary:
    """Counts and totals of CDRs."""

    cdrs: int
    in_conflict: int
    request_ids_in_conflict: int
    without_request_id: int
    repeated: int
    """CDRs whose bytes came again."""
    repeats: int
    """How often these came again in all."""
    totals: tuple[CurrencyTotal, ...]


OTHER = cdrs.alias("other")
IN_CONFLICT = exists().where(OTHER.c.request_id == cdrs.c.request_id, OTHER.c.delivery_id != cdrs.c.delivery_id)


def find(conn: Connection, filters: CdrFilters, limit: int | None) -> Iterator[CdrRow]:
    """Yield CDRs, newest first; if only those in conflict are wanted, ordered by request id."""
    columns = [cdrs.c[name] for name in CdrRow.__dataclass_fields__ if name in cdrs.c and name != "user_id"]
    query = _select(filters).with_only_columns(
        *columns,
        func.coalesce(cdrs.c.user_id, sessions.c.user_id).label("user_id"),
        sessions.c.status.label("session_status"),
        IN_CONFLICT.label("in_conflict"),
        receipt_count().label("duplicates"),
    )
    order = [cdrs.c.request_id, cdrs.c.received_at] if filters.in_conflict else [cdrs.c.received_at.desc()]
    query = query.order_by(*order, cdrs.c.delivery_id).limit(limit).execution_options(yield_per=FETCH_SIZE)
    for row in conn.execute(query):
        facts = row._asdict()
        yield CdrRow(**facts | {"notes": tuple(facts["notes"]), "in_conflict": bool(facts["in_conflict"])})


def summary(conn: Connection, filters: CdrFilters) -> CdrSummary:
    """Count and sum up the matching CDRs, exactly."""
    again = receipt_count().label("again")
    each = _select(filters).with_only_columns(cdrs.c.request_id, IN_CONFLICT.label("in_conflict"), again).subquery()
    counts = conn.execute(
        select(
            func.count().label("cdrs"),
            func.count().filter(each.c.in_conflict).label("in_conflict"),
            func.count(each.c.request_id.distinct()).filter(each.c.in_conflict).label("request_ids_in_conflict"),
            func.count().filter(each.c.request_id.is_(None)).label("without_request_id"),
            func.count().filter(each.c.again > 0).label("repeated"),
            func.coalesce(func.sum(each.c.again), 0).label("repeats"),
        ).select_from(each)
    ).one()
    numbers = {name: int(count) for name, count in counts._asdict().items()}
    return CdrSummary(**numbers, totals=tuple(_totals(conn, filters)))


def unreadable(conn: Connection, since: datetime | None = None, until: datetime | None = None) -> int:
    """Count the unreadable CDRs: deliveries without a record."""
    wanted = matching(deliveries, kind=Kind.CDRS.value, state=DeliveryState.UNREADABLE)
    query = select(func.count()).where(*wanted, *within(deliveries.c.received_at, since, until))
    return conn.execute(query).scalar_one()


def _totals(conn: Connection, filters: CdrFilters) -> Iterator[CurrencyTotal]:
    """Yield the totals by currency.

    The database counts equal amounts, which are few; they are added up here, for SQLite adds floats only.
    """
    in_conflict = IN_CONFLICT.label("in_conflict")
    each = _select(filters).with_only_columns(cdrs.c.currency, cdrs.c.amount, in_conflict).subquery()
    columns = each.c.currency, each.c.amount, each.c.in_conflict
    grouped = select(*columns, func.count()).group_by(*columns)
    by_currency: dict[str | None, list[tuple[Decimal | None, bool, int]]] = defaultdict(list)
    for currency, amount, disputed, count in conn.execute(grouped):
        by_currency[currency].append((amount, bool(disputed), count))
    for currency, found in sorted(by_currency.items(), key=lambda item: (item[0] is None, item[0] or "")):
        yield CurrencyTotal(
            currency=currency,
            cdrs=sum(count for _, _, count in found),
            amount=total((amount, count) for amount, _, count in found if amount is not None),
            in_conflict=sum(count for _, disputed, count in found if disputed),
            amount_in_conflict=total((value, n) for value, disputed, n in found if disputed and value is not None),
            without_amount=sum(count for amount, _, count in found if amount is None),
        )


def _select(filters: CdrFilters) -> Select[Any]:
    joined = cdrs.outerjoin(deliveries, deliveries.c.id == cdrs.c.delivery_id).outerjoin(
        sessions, sessions.c.session_id == cdrs.c.session_id
    )
    return select(cdrs.c.delivery_id).select_from(joined).where(*_conditions(filters))


def _conditions(filters: CdrFilters) -> Iterator[ColumnElement[bool]]:
    yield from matching(cdrs, session_id=filters.session_id, charging_key=filters.keys)
    yield from within(cdrs.c.received_at, filters.since, filters.until)
    if filters.user_id is not None:
        by_session = and_(cdrs.c.user_id.is_(None), sessions.c.user_id == filters.user_id)
        yield or_(cdrs.c.user_id == filters.user_id, by_session)
    if filters.request_id is not None:
        by_digest = and_(cdrs.c.request_id.is_(None), cdrs.c.delivery_id == filters.request_id)
        yield or_(cdrs.c.request_id == filters.request_id, by_digest)
    if filters.in_conflict:
        yield IN_CONFLICT
    if filters.repeated:
        yield receipt_count() > 0
