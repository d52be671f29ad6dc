"""What a person asks about CDRs: which there are, what they come to, and which contradict each other."""

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
from workers.ledger.deliveries import receipt_count
from workers.ledger.states import DeliveryState
from workers.ledger.tables.core import deliveries, sessions

AT_ONCE = 1000
"""How many rows are fetched at once: a long list takes no more memory than a short one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CdrFilters:
    """What a person is looking for; all that is set must fit."""

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
    """A CDR with what else the ledger knows of it."""

    delivery_id: str
    request_id: str | None
    session_id: str | None
    user_id: str | None
    """Whom the CDR names, else whom the events of its session do."""
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
    """None while its session is not known."""
    in_conflict: bool
    """Another CDR has the same request id, and other bytes."""
    duplicates: int
    """How often the same bytes have come again, wherever."""


@dataclass(frozen=True, slots=True)
class Total:
    """What CDRs in one currency come to; those in conflict are also counted apart."""

    currency: str | None
    cdrs: int
    amount: Decimal
    in_conflict: int
    amount_in_conflict: Decimal
    without_amount: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Many CDRs, counted."""

    cdrs: int
    in_conflict: int
    request_ids_in_conflict: int
    without_request_id: int
    repeated: int
    """Of how many the same bytes came again."""
    repeats: int
    """How often in all."""
    totals: tuple[Total, ...]


OTHER = cdrs.alias("other")
IN_CONFLICT = exists().where(OTHER.c.request_id == cdrs.c.request_id, OTHER.c.delivery_id != cdrs.c.delivery_id)


def find(conn: Connection, filters: CdrFilters, limit: int | None) -> Iterator[CdrRow]:
    """List CDRs, newest first; those in conflict, if only they are wanted, by request id, so that they lie together."""
    columns = [cdrs.c[name] for name in CdrRow.__dataclass_fields__ if name in cdrs.c and name != "user_id"]
    query = _among(filters).with_only_columns(
        *columns,
        func.coalesce(cdrs.c.user_id, sessions.c.user_id).label("user_id"),
        sessions.c.status.label("session_status"),
        IN_CONFLICT.label("in_conflict"),
        receipt_count().label("duplicates"),
    )
    order = [cdrs.c.request_id, cdrs.c.received_at] if filters.in_conflict else [cdrs.c.received_at.desc()]
    found = conn.execute(query.order_by(*order, cdrs.c.delivery_id).limit(limit).execution_options(yield_per=AT_ONCE))
    for row in found:
        facts = row._asdict()
        yield CdrRow(**facts | {"notes": tuple(facts["notes"]), "in_conflict": bool(facts["in_conflict"])})


def summary(conn: Connection, filters: CdrFilters) -> Summary:
    """Count what fits and add it up, to the last digit."""
    again = receipt_count().label("again")
    each = _among(filters).with_only_columns(cdrs.c.request_id, IN_CONFLICT.label("in_conflict"), again).subquery()
    counted = conn.execute(
        select(
            func.count(),
            func.count().filter(each.c.in_conflict),
            func.count(each.c.request_id.distinct()).filter(each.c.in_conflict),
            func.count().filter(each.c.request_id.is_(None)),
            func.count().filter(each.c.again > 0),
            func.coalesce(func.sum(each.c.again), 0),
        ).select_from(each)
    ).one()
    count, in_conflict, request_ids, without_request_id, repeated, repeats = map(int, counted)
    return Summary(
        cdrs=count,
        in_conflict=in_conflict,
        request_ids_in_conflict=request_ids,
        without_request_id=without_request_id,
        repeated=repeated,
        repeats=repeats,
        totals=tuple(_totals(conn, filters)),
    )


def unreadable(conn: Connection, since: datetime | None = None, until: datetime | None = None) -> int:
    """Count the CDRs that came and were not understood: they are deliveries without a record."""
    query = select(func.count()).where(
        deliveries.c.kind == str(Kind.CDRS), deliveries.c.state == DeliveryState.UNREADABLE
    )
    if since is not None:
        query = query.where(deliveries.c.received_at >= since)
    if until is not None:
        query = query.where(deliveries.c.received_at < until)
    return conn.execute(query).scalar_one()


def _totals(conn: Connection, filters: CdrFilters) -> Iterator[Total]:
    """Add up what fits by currency.

    The database counts equal amounts, which are few; adding them up is not left to it, as SQLite knows floats only.
    """
    each = (
        _among(filters).with_only_columns(cdrs.c.currency, cdrs.c.amount, IN_CONFLICT.label("in_conflict")).subquery()
    )
    columns = each.c.currency, each.c.amount, each.c.in_conflict
    grouped = select(*columns, func.count()).group_by(*columns)
    by_currency: dict[str | None, list[tuple[Decimal | None, bool, int]]] = defaultdict(list)
    for currency, amount, in_conflict, count in conn.execute(grouped):
        by_currency[currency].append((amount, bool(in_conflict), count))
    for currency, found in sorted(by_currency.items(), key=lambda item: (item[0] is None, item[0] or "")):
        yield Total(
            currency=currency,
            cdrs=sum(count for _, _, count in found),
            amount=total((amount, count) for amount, _, count in found if amount is not None),
            in_conflict=sum(count for _, disputed, count in found if disputed),
            amount_in_conflict=total(
                (amount, count) for amount, disputed, count in found if disputed and amount is not None
            ),
            without_amount=sum(count for amount, _, count in found if amount is None),
        )


def _among(filters: CdrFilters) -> Select[Any]:
    joined = cdrs.outerjoin(deliveries, deliveries.c.id == cdrs.c.delivery_id).outerjoin(
        sessions, sessions.c.session_id == cdrs.c.session_id
    )
    return select(cdrs.c.delivery_id).select_from(joined).where(*_conditions(filters))


def _conditions(filters: CdrFilters) -> Iterator[ColumnElement[bool]]:
    if filters.session_id is not None:
        yield cdrs.c.session_id == filters.session_id
    if filters.user_id is not None:
        by_session = and_(cdrs.c.user_id.is_(None), sessions.c.user_id == filters.user_id)
        yield or_(cdrs.c.user_id == filters.user_id, by_session)
    if filters.request_id is not None:
        by_digest = and_(cdrs.c.request_id.is_(None), cdrs.c.delivery_id == filters.request_id)
        yield or_(cdrs.c.request_id == filters.request_id, by_digest)
    if filters.keys is not None:
        yield cdrs.c.charging_key.in_(filters.keys)
    if filters.since is not None:
        yield cdrs.c.received_at >= filters.since
    if filters.until is not None:
        yield cdrs.c.received_at < filters.until
    if filters.in_conflict:
        yield IN_CONFLICT
    if filters.repeated:
        yield receipt_count() > 0
