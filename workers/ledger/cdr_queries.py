"""Find and sum up CDRs for a person: which of them are repeats, which are in conflict, and which count.

Rows of one identity are one CDR: the one that was received first counts, the others are in no total.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    Text,
    and_,
    case,
    cast,
    exists,
    false,
    func,
    not_,
    or_,
    select,
    tuple_,
)

from handlers.kit.cdr_table import CONTRADICTIONS, cdrs
from handlers.kit.field_extraction import total
from ingest.wire.envelope import Kind
from workers.ledger.database.conditions import Position, in_list, matching, older_than, same_person, within
from workers.ledger.deliveries import receipt_count
from workers.ledger.states import DeliveryState
from workers.ledger.tables.core_tables import deliveries, receipts, sessions

MOST_SESSIONS = 2_000
FETCH_SIZE = 1000
"""Rows fetched at once, so that a long list takes no more memory than a short one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CdrFilters:
    """Which CDRs to find; all that is set must match."""

    session_id: str | None = None
    user_id: str | None = None
    user_sessions: Collection[str] | None = None
    """The sessions of `user_id`, where these are known: then indexes find their CDRs."""
    request_id: str | None = None
    keys: Sequence[str] | None = None
    """The spellings of a charging key."""
    since: datetime | None = None
    until: datetime | None = None
    in_conflict: bool = False
    repeated: bool = False
    with_repeats: bool = False
    """Whether each repeat is listed, too, beside the first that says the same."""
    is_brief: bool = False
    """Whether the span is so short that few can match."""

    @property
    def is_narrow(self) -> bool:
        """Whether few can match, whose partners are looked up one by one."""
        return self.is_brief or bool(self.session_id or self.user_id or self.request_id or self.keys)


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
    position: int
    """Its place in the array that its delivery is, from 0."""
    session_status: str | None
    """None while its session is unknown."""
    in_conflict: bool
    """Whether another CDR has the same request id, and differs in what is read."""
    is_repeat: bool
    """Whether it says the same as an earlier one with its request id."""
    is_counted: bool
    """Whether it is in the totals: it is the first of its request id."""
    shares_session: bool
    """Whether a CDR with another request id has the same session."""
    duplicates: int
    """How often it came again, on any node: as the same bytes, or as others that say the same."""


@dataclass(frozen=True, slots=True)
class CurrencyTotal:
    """The total of the CDRs in one currency, each request id once; those in conflict are also counted separately."""

    currency: str | None
    cdrs: int
    amount: Decimal
    in_conflict: int
    amount_in_conflict: Decimal
    """The part of `amount` that other CDRs contradict."""
    without_amount: int
    not_counted: int
    """Those that contradict one that came before them."""
    amount_not_counted: Decimal


@dataclass(frozen=True, slots=True)
class CdrSummary:
    """Counts and totals of CDRs."""

    cdrs: int
    in_conflict: int
    request_ids_in_conflict: int
    without_request_id: int
    sharing_session: int
    """CDRs whose session another one has."""
    repeated: int
    """CDRs that came again."""
    repeats: int
    """How often these came again in all."""
    totals: tuple[CurrencyTotal, ...]


OTHER = cdrs.alias("other")
OTHER_DELIVERY = deliveries.alias("other_delivery")
IS_SAME = OTHER.c.identity == cdrs.c.identity
IS_EARLIER = tuple_(*(OTHER.c[name] for name in ("received_at", "delivery_id", "position"))) < tuple_(
    *(cdrs.c[name] for name in ("received_at", "delivery_id", "position"))
)
IN_CONFLICT = exists().where(IS_SAME, OTHER.c.content != cdrs.c.content)
IS_REPEAT = exists().where(IS_SAME, OTHER.c.content == cdrs.c.content, IS_EARLIER)
IS_COUNTED = ~exists().where(IS_SAME, IS_EARLIER)
SHARES_SESSION = exists().where(OTHER.c.session_id == cdrs.c.session_id, OTHER.c.identity != cdrs.c.identity)

# Most CDRs came once, and alone of their session. Where all are read, the others are found first by an index: to look
# for the partners of each takes a hundred times as long.
HAS_PARTNER = cdrs.c.identity.in_(select(OTHER.c.identity).group_by(OTHER.c.identity).having(func.count() > 1))
HAS_SHARED_SESSION = cdrs.c.session_id.in_(
    select(OTHER.c.session_id).group_by(OTHER.c.session_id).having(func.count() > 1)
)
CAME_AGAIN = or_(HAS_PARTNER, cdrs.c.delivery_id.in_(select(receipts.c.delivery_id)))

# Notes are an array of our own texts, without a quote or an escape in them.
CONTRADICTS_ITSELF = or_(*(cast(cdrs.c.notes, Text).contains(f'"{note}"') for note in sorted(CONTRADICTIONS)))


def _duplicates() -> ColumnElement[int]:
    """Build how often a CDR came again: the receipts of its bytes, and of later ones that say the same."""
    others = (
        # The sum of PostgreSQL's bigints is a numeric.
        select(cast(func.coalesce(func.sum(1 + receipt_count(OTHER_DELIVERY)), 0), Integer))
        .select_from(OTHER.outerjoin(OTHER_DELIVERY, OTHER_DELIVERY.c.id == OTHER.c.delivery_id))
        .where(IS_SAME, OTHER.c.content == cdrs.c.content, ~IS_EARLIER)
        .where(or_(OTHER.c.delivery_id != cdrs.c.delivery_id, OTHER.c.position != cdrs.c.position))
        .correlate(cdrs)
    )
    return receipt_count() + others.scalar_subquery()


def find(
    conn: Connection,
    filters: CdrFilters,
    limit: int | None,
    before: Position | None = None,
    *,
    newest_first: bool = False,
) -> Iterator[CdrRow]:
    """Yield CDRs, newest first; if only those in conflict or repeated are wanted, those of a request id side by side.

    Repeats are left out, unless they are wanted. Those behind a position are the next page, newest first.
    """
    filters = _with_sessions(conn, filters)
    columns = [cdrs.c[name] for name in CdrRow.__dataclass_fields__ if name in cdrs.c and name != "user_id"]
    query = (
        _select(filters)
        .where(*_behind(before))
        .with_only_columns(
            *columns,
            func.coalesce(cdrs.c.user_id, sessions.c.user_id).label("user_id"),
            sessions.c.status.label("session_status"),
            IN_CONFLICT.label("in_conflict"),
            IS_REPEAT.label("is_repeat"),
            IS_COUNTED.label("is_counted"),
            SHARES_SESSION.label("shares_session"),
            _duplicates().label("duplicates"),
        )
    )
    if not filters.with_repeats:
        query = query.where(~IS_REPEAT)
    side_by_side = (filters.in_conflict or filters.repeated) and not newest_first
    order = [cdrs.c.identity, cdrs.c.received_at] if side_by_side else [cdrs.c.received_at.desc()]
    query = query.order_by(*order, cdrs.c.delivery_id, cdrs.c.position).limit(limit)
    for row in conn.execute(query.execution_options(yield_per=FETCH_SIZE)):
        found = row._asdict()
        flags = {each.name: bool(found[each.name]) for each in fields(CdrRow) if each.type is bool}
        yield CdrRow(**found | flags | {"notes": tuple(found["notes"])})


def position_of(row: CdrRow) -> Position:
    """Return the position of a CDR in a list."""
    return row.received_at, f"{row.delivery_id} {row.position}"


def _behind(before: Position | None) -> list[ColumnElement[bool]]:
    if before is None:
        return []
    delivery_id, _, number = before[1].partition(" ")
    of_delivery = and_(cdrs.c.delivery_id == delivery_id, cdrs.c.position > int(number or 0))
    return [
        cdrs.c.received_at <= before[0],
        or_(cdrs.c.received_at < before[0], cdrs.c.delivery_id > delivery_id, of_delivery),
    ]


def totals(conn: Connection, filters: CdrFilters) -> tuple[CurrencyTotal, ...]:
    """Return the totals of the matching CDRs, exactly: the part of the summary that is had soonest."""
    return tuple(_totals(_amounts(conn, _with_sessions(conn, filters))))


def summary(conn: Connection, filters: CdrFilters) -> CdrSummary:
    """Count and sum up the matching CDRs, exactly."""
    filters = _with_sessions(conn, filters)
    amounts = _amounts(conn, filters)
    is_first = not_(IS_REPEAT)
    has_partner, came_again = ((), ()) if filters.is_narrow else ((HAS_PARTNER,), (CAME_AGAIN,))
    in_conflict = _select(filters).where(*has_partner, IN_CONFLICT, is_first).with_only_columns(cdrs.c.request_id)
    again = _select(filters).where(*came_again, is_first).with_only_columns(_duplicates().label("times")).subquery()
    repeated = select(func.count(), func.coalesce(func.sum(again.c.times), 0)).where(again.c.times > 0)
    repeated_count, repeats = conn.execute(repeated).one()
    return CdrSummary(
        cdrs=_count(amounts),
        in_conflict=_count(each for each in amounts if each.in_conflict),
        request_ids_in_conflict=len(set(conn.scalars(in_conflict)) - {None}),
        without_request_id=_count(each for each in amounts if each.has_no_request_id),
        sharing_session=_count(each for each in amounts if each.shares_session),
        repeated=repeated_count,
        repeats=int(repeats),
        totals=tuple(_totals(amounts)),
    )


@dataclass(frozen=True, slots=True)
class SessionWithoutCdr:
    """A session that is complete, and has no CDR."""

    session_id: str
    user_id: str | None
    started_at: datetime | None
    completed_at: datetime | None
    known_at: datetime
    """When its last news came."""


def sessions_without_cdr(
    conn: Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    before: Position | None = None,
    limit: int | None = None,
) -> list[SessionWithoutCdr]:
    """List complete sessions that have no CDR among the newest MOST_SESSIONS of a span, newest first.

    Nearly all have one, so more would be read for one page than it may take.
    """
    table = sessions.c
    newest = (
        select(table.session_id, table.user_id, table.started_at, table.completed_at, table.updated_at, table.status)
        .where(*within(table.updated_at, since, until), *older_than(table.updated_at, table.session_id, before))
        .order_by(table.updated_at.desc(), table.session_id)
        .limit(MOST_SESSIONS)
        .subquery()
    )
    found = newest.c
    query = (
        select(found.session_id, found.user_id, found.started_at, found.completed_at, found.updated_at)
        .where(found.status == "COMPLETE", ~exists().where(cdrs.c.session_id == found.session_id))
        .order_by(found.updated_at.desc(), found.session_id)
        .limit(limit)
    )
    return [SessionWithoutCdr(*row) for row in conn.execute(query)]


def unreadable(conn: Connection, since: datetime | None = None, until: datetime | None = None) -> int:
    """Count the unreadable CDRs: deliveries without a record."""
    wanted = matching(deliveries, kind=Kind.CDRS.value, state=DeliveryState.UNREADABLE)
    query = select(func.count()).where(*wanted, *within(deliveries.c.received_at, since, until))
    return conn.execute(query).scalar_one()


class _Amount(NamedTuple):
    """An amount that some CDRs have, what else is equal, and how many there are."""

    currency: str | None
    amount: Decimal | None
    in_conflict: bool
    is_counted: bool
    shares_session: bool
    has_no_request_id: bool
    times: int


def _amounts(conn: Connection, filters: CdrFilters) -> list[_Amount]:
    """List the amounts of the matching CDRs.

    The database counts equal ones, which are few; they are added up here, for SQLite adds floats only.
    """

    def with_partner(condition: ColumnElement[bool], guard: ColumnElement[bool] = HAS_PARTNER) -> ColumnElement[bool]:
        return condition if filters.is_narrow else case((guard, condition), else_=false())

    columns = (
        cdrs.c.currency,
        cdrs.c.amount,
        with_partner(IN_CONFLICT).label("in_conflict"),
        not_(with_partner(not_(IS_COUNTED))).label("is_counted"),
        with_partner(SHARES_SESSION, HAS_SHARED_SESSION).label("shares_session"),
        cdrs.c.request_id.is_(None).label("has_no_request_id"),
    )
    matching_ones = _select(filters, is_joined=False).where(not_(with_partner(IS_REPEAT)))
    each = matching_ones.with_only_columns(*columns).subquery()
    grouped = conn.execute(select(*each.c, func.count().label("times")).group_by(*each.c))
    flags = [label for label, kind in _Amount.__annotations__.items() if kind is bool]
    return [_Amount(**{**row, **{flag: bool(row[flag]) for flag in flags}}) for row in grouped.mappings()]


def _totals(amounts: Iterable[_Amount]) -> Iterator[CurrencyTotal]:
    by_currency: dict[str | None, list[_Amount]] = defaultdict(list)
    for each in amounts:
        by_currency[each.currency].append(each)
    for currency, found in sorted(by_currency.items(), key=lambda item: (item[0] is None, item[0] or "")):
        counted = [each for each in found if each.is_counted]
        disputed = [each for each in counted if each.in_conflict]
        left_out = [each for each in found if not each.is_counted]
        yield CurrencyTotal(
            currency=currency,
            cdrs=_count(counted),
            amount=_sum(counted),
            in_conflict=_count(disputed),
            amount_in_conflict=_sum(disputed),
            without_amount=_count(each for each in counted if each.amount is None),
            not_counted=_count(left_out),
            amount_not_counted=_sum(left_out),
        )


def _count(some: Iterable[_Amount]) -> int:
    return sum(each.times for each in some)


def _sum(some: Iterable[_Amount]) -> Decimal:
    return total((each.amount, each.times) for each in some if each.amount is not None)


def _with_sessions(conn: Connection, filters: CdrFilters) -> CdrFilters:
    """Add the sessions of the driver, if one is wanted: with a subquery for them PostgreSQL reads all CDRs."""
    if filters.user_id is None or filters.user_sessions is not None:
        return filters
    theirs = select(sessions.c.session_id).where(same_person(sessions.c.user_id, filters.user_id))
    return replace(filters, user_sessions=conn.scalars(theirs).all())


def _select(filters: CdrFilters, *, is_joined: bool = True) -> Select[Any]:
    """Select the matching CDRs, with their deliveries and sessions if wanted or needed by the filters."""
    joined = cdrs.outerjoin(deliveries, deliveries.c.id == cdrs.c.delivery_id).outerjoin(
        sessions, sessions.c.session_id == cdrs.c.session_id
    )
    source = joined if is_joined or filters.repeated else cdrs
    return select(cdrs.c.delivery_id).select_from(source).where(*_conditions(filters))


def _conditions(filters: CdrFilters) -> Iterator[ColumnElement[bool]]:
    yield from matching(cdrs, session_id=filters.session_id, charging_key=filters.keys)
    yield from within(cdrs.c.received_at, filters.since, filters.until)
    if filters.user_id is not None:
        is_theirs = in_list(cdrs.c.session_id, filters.user_sessions or ())
        by_session = and_(cdrs.c.user_id.is_(None), is_theirs)
        yield or_(same_person(cdrs.c.user_id, filters.user_id), by_session)
    if filters.request_id is not None:
        by_delivery = and_(cdrs.c.request_id.is_(None), cdrs.c.delivery_id == filters.request_id)
        yield or_(cdrs.c.identity == filters.request_id, by_delivery)
    if filters.in_conflict:
        yield from (HAS_PARTNER, IN_CONFLICT)
    if filters.repeated:
        yield from (CAME_AGAIN, or_(_duplicates() > 0, IS_REPEAT))
