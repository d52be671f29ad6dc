"""Find and sum up CDRs for a person: which of them are repeats, which are in conflict, and which count.

Rows of one identity are one CDR: the one that was received first counts, the others are in no total.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Text,
    and_,
    cast,
    exists,
    func,
    or_,
    select,
    tuple_,
)

from handlers.kit.cdr_table import CONTRADICTIONS, cdrs
from ingest.wire.envelope import Kind
from workers.ledger.database.conditions import (
    Position,
    Unindexed,
    in_hashed_list,
    in_list,
    matching,
    older_than,
    same_person,
    within,
)
from workers.ledger.deliveries import receipt_count
from workers.ledger.states import DeliveryState
from workers.ledger.tables.core_tables import deliveries, receipts, sessions

MOST_SESSIONS = 2_000
MANY = 500
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

SAYS_THE_SAME = exists().where(
    IS_SAME,
    OTHER.c.content == cdrs.c.content,
    or_(OTHER.c.delivery_id != cdrs.c.delivery_id, OTHER.c.position != cdrs.c.position),
)

# Notes are an array of our own texts, without a quote or an escape in them.
CONTRADICTS_ITSELF = or_(*(cast(cdrs.c.notes, Text).contains(f'"{note}"') for note in sorted(CONTRADICTIONS)))


def duplicates() -> ColumnElement[int]:
    """Build how often a CDR came again: the receipts of its bytes, and of later ones that say the same.

    It needs the delivery of the CDR, see `with_deliveries`.
    """
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
    wanted = select(cdrs.c.delivery_id).where(*conditions(conn, filters), *_behind(before))
    if not filters.with_repeats:
        wanted = wanted.where(~IS_REPEAT)
    side_by_side = (filters.in_conflict or filters.repeated) and not newest_first
    first = (cdrs.c.identity, cdrs.c.received_at) if side_by_side else (cdrs.c.received_at.desc(),)
    order = (*first, cdrs.c.delivery_id, cdrs.c.position)
    source: FromClause = cdrs
    if limit is not None:
        # What is shown of each is looked up for these only, and not for all that match, before they are sorted.
        these = wanted.with_only_columns(cdrs.c.delivery_id, cdrs.c.position).order_by(*order).limit(limit).subquery()
        is_this = and_(these.c.delivery_id == cdrs.c.delivery_id, these.c.position == cdrs.c.position)
        source, wanted = these.join(cdrs, is_this), select()
    columns = [cdrs.c[name] for name in CdrRow.__dataclass_fields__ if name in cdrs.c and name != "user_id"]
    query = wanted.with_only_columns(
        *columns,
        func.coalesce(cdrs.c.user_id, sessions.c.user_id).label("user_id"),
        sessions.c.status.label("session_status"),
        IN_CONFLICT.label("in_conflict"),
        IS_REPEAT.label("is_repeat"),
        IS_COUNTED.label("is_counted"),
        SHARES_SESSION.label("shares_session"),
        duplicates().label("duplicates"),
    ).select_from(with_deliveries(source).outerjoin(sessions, sessions.c.session_id == cdrs.c.session_id))
    for row in conn.execute(query.order_by(*order).execution_options(yield_per=FETCH_SIZE)):
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


def partners(conn: Connection) -> list[str]:
    """Return the identities of which there is more than one CDR, which are few.

    They are found first, by an index: to look for the partners of each CDR takes a hundred times as long, and each
    query would find them anew.
    """
    return list(conn.scalars(select(cdrs.c.identity).group_by(cdrs.c.identity).having(func.count() > 1)))


def with_deliveries(source: FromClause) -> FromClause:
    """Join the delivery of each CDR, which may have been deleted."""
    return source.outerjoin(deliveries, deliveries.c.id == cdrs.c.delivery_id)


def received_again(conn: Connection) -> set[str]:
    """Return the deliveries with CDRs that may have been received more than once."""
    return set(conn.scalars(select(cdrs.c.delivery_id).join(receipts, receipts.c.delivery_id == cdrs.c.delivery_id)))


def conditions(conn: Connection, filters: CdrFilters) -> list[ColumnElement[bool]]:
    """Build the conditions of the matching CDRs, repeats among them."""
    return list(_conditions(conn, filters))


def _conditions(conn: Connection, filters: CdrFilters) -> Iterator[ColumnElement[bool]]:
    yield from matching(cdrs, session_id=filters.session_id, charging_key=filters.keys)
    yield from within(cdrs.c.received_at, filters.since, filters.until)
    if filters.user_id is not None:
        theirs = filters.user_sessions
        if theirs is None:  # with a subquery for them PostgreSQL reads all CDRs
            theirs = conn.scalars(
                select(sessions.c.session_id).where(same_person(sessions.c.user_id, filters.user_id))
            ).all()
        # By the sessions, which are few, and not by all that have no user.
        by_session = and_(Unindexed(cdrs.c.user_id).is_(None), in_list(cdrs.c.session_id, theirs))
        yield or_(same_person(cdrs.c.user_id, filters.user_id), by_session)
    if filters.request_id is not None:
        by_delivery = and_(cdrs.c.request_id.is_(None), cdrs.c.delivery_id == filters.request_id)
        yield or_(cdrs.c.identity == filters.request_id, by_delivery)
    if not (filters.in_conflict or filters.repeated):
        return
    twice = partners(conn)
    if filters.in_conflict:
        yield in_list(cdrs.c.identity, _in_conflict(conn, twice))
    if filters.repeated:
        # Both are listed first: in a condition PostgreSQL takes them for many, and reads all deliveries beside them.
        received = received_again(conn)
        # Of many the newest are found sooner by reading CDRs in their order.
        among = in_list if len(twice) + len(received) <= MANY else in_hashed_list
        yield or_(among(cdrs.c.identity, twice), among(cdrs.c.delivery_id, received))
        delivery = deliveries.alias("of_it")
        again = exists().where(delivery.c.id == cdrs.c.delivery_id, receipt_count(delivery) > 0)
        yield or_(SAYS_THE_SAME, again)


def _in_conflict(conn: Connection, twice: Collection[str]) -> list[str]:
    """Return those of these identities whose CDRs contradict each other."""
    of_identity = select(cdrs.c.identity).where(in_list(cdrs.c.identity, twice)).group_by(cdrs.c.identity)
    return list(conn.scalars(of_identity.having(func.min(cdrs.c.content) != func.max(cdrs.c.content))))
