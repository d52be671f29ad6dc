"""Sum up CDRs for a person, exactly: those that count, those in conflict, and those that came again.

Nearly every CDR is the only one of its identity. The database adds these up; the few others are compared here.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    Select,
    String,
    and_,
    case,
    cast,
    exists,
    func,
    select,
    true,
    type_coerce,
)

from handlers.kit.cdr_table import cdrs
from handlers.kit.field_extraction import EXACT_CONTEXT, total
from workers.ledger.cdr_queries import OTHER, CdrFilters, conditions, partners, received_again
from workers.ledger.database.conditions import Unindexed, in_list
from workers.ledger.deliveries import receipt_count
from workers.ledger.tables.core_tables import deliveries, receipts

LONGEST_SUMMED = 12
"""Characters of an amount that SQLite adds up: of 90 million such numbers the sum has no more than 64 bits."""

ORDER = (cdrs.c.received_at, cdrs.c.delivery_id, cdrs.c.position)
"""Of CDRs of one identity the first in this order counts."""

Conditions: TypeAlias = Sequence[ColumnElement[bool]]
CdrKey: TypeAlias = tuple[str, int]
"""The delivery of a CDR, and its position there."""


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


def summarize(conn: Connection, filters: CdrFilters) -> CdrSummary:
    """Count and sum up the matching CDRs, exactly."""
    matching = conditions(conn, filters)
    twins = list(_twins(conn, filters, matching))
    sums = list(_sums(conn, filters, matching, twins))
    wanted = [each for each in twins if each.is_wanted]
    in_conflict = {each.request_id for each in wanted if each.in_conflict and not each.is_repeat}
    without_request_id = select(func.count()).select_from(cdrs).where(*matching, cdrs.c.request_id.is_(None))
    repeats_of_these = sum(each.request_id is None and each.is_repeat for each in wanted)
    times = _times_again(conn, filters, matching, twins)
    return CdrSummary(
        cdrs=_count(sums),
        in_conflict=_count(each for each in sums if each.in_conflict),
        request_ids_in_conflict=len(in_conflict - {None}),
        without_request_id=conn.execute(without_request_id).scalar_one() - repeats_of_these,
        sharing_session=_sharing_session(conn, filters, matching, {each.key for each in twins if each.is_repeat}),
        repeated=sum(count > 0 for count in times),
        repeats=sum(times),
        totals=tuple(_totals(sums)),
    )


def totals(conn: Connection, filters: CdrFilters) -> tuple[CurrencyTotal, ...]:
    """Return the totals of the matching CDRs, exactly: the part of the summary that is had soonest."""
    matching = conditions(conn, filters)
    return tuple(_totals(list(_sums(conn, filters, matching, _twins(conn, filters, matching)))))


class _Sum(NamedTuple):
    """What some CDRs in one currency come to, how many they are, and what else is equal."""

    currency: str | None
    amount: Decimal | None
    """None if they have no amount."""
    times: int = 1
    in_conflict: bool = False
    is_counted: bool = True


class _Twin(NamedTuple):
    """A CDR that has another one of its identity."""

    key: CdrKey
    identity: str
    content: str
    request_id: str | None
    currency: str | None
    amount: Decimal | None
    is_wanted: bool
    """Whether it matches; the others of its identity need not."""
    in_conflict: bool
    is_first: bool
    is_repeat: bool


def _twins(conn: Connection, filters: CdrFilters, matching: Conditions) -> Iterator[_Twin]:
    """Yield the CDRs of identities that have more than one, those of each side by side in the order of their receipt.

    They are at least those of the matching ones. Compared here they take two thirds of the time of window functions.
    """
    twice = _shared(conn, cdrs.c.identity, filters, matching) if filters.is_narrow else partners(conn)
    table = cdrs.c
    columns = table.delivery_id, table.position, table.content, table.request_id, table.currency, table.amount
    query = select(table.identity, *columns, and_(true(), *matching).label("is_wanted"))
    ordered = query.where(in_list(table.identity, twice)).order_by(table.identity, *ORDER)
    for identity, found in groupby(conn.execute(ordered).all() if twice else (), key=itemgetter(0)):
        rows = list(found)
        contents: set[str] = set()
        in_conflict = len({row[3] for row in rows}) > 1
        for _, delivery_id, position, content, request_id, currency, amount, is_wanted in rows:
            yield _Twin(
                (delivery_id, position),
                identity,
                content,
                request_id,
                currency,
                amount,
                bool(is_wanted),
                in_conflict,
                is_first=not contents,
                is_repeat=content in contents,
            )
            contents.add(content)


def _shared(conn: Connection, column: Column[Any], filters: CdrFilters, matching: Conditions) -> list[str]:
    """Return the values of a column that more than one CDR has, at least of the matching CDRs."""
    if filters.is_narrow:
        count = select(func.count()).where(OTHER.c[column.name] == column).correlate(cdrs).scalar_subquery()
        # Those that match are found first, and not all that have a value.
        return list(set(conn.scalars(select(column).where(*matching, Unindexed(column).is_not(None), count > 1))))
    of_all = select(column).where(column.is_not(None)).group_by(column)
    return list(conn.scalars(of_all.having(func.count() > 1)))


def _sums(conn: Connection, filters: CdrFilters, matching: Conditions, twins: Iterable[_Twin]) -> Iterator[_Sum]:
    """Yield sums of the matching CDRs that are no repeats.

    The sum of all is had from an index alone. What those come to that are not alone is taken off, and yielded for each.
    """
    rest: dict[tuple[str | None, int | None], tuple[int, Decimal]] = {}
    # Of few that match, not by the index of all amounts.
    currency_column = Unindexed(cdrs.c.currency).label("currency") if filters.is_narrow else cdrs.c.currency
    for currency, amount, count in _add_up(conn, select(currency_column, cdrs.c.amount).where(*matching)):
        rest[currency, _exponent(amount)] = count, amount or Decimal()
    for each in twins:
        if each.is_wanted:
            kind = each.currency, _exponent(each.amount)
            count, amount = rest[kind]
            rest[kind] = count - 1, EXACT_CONTEXT.subtract(amount, each.amount or Decimal())
            if not each.is_repeat:
                yield _Sum(each.currency, each.amount, 1, each.in_conflict, each.is_first)
    for (currency, exponent), (count, amount) in rest.items():
        if count:
            yield _Sum(currency, None if exponent is None else amount, count)


def _add_up(conn: Connection, query: Select[Any]) -> Iterator[tuple[str | None, Decimal | None, int]]:
    """Yield (currency, sum of amounts, how many), one of each currency and exponent.

    The sum keeps the digits behind the point that its amounts have. It is None of those that have no amount.
    """
    if conn.dialect.name == "postgresql":
        currency, amount = query.subquery().c
        grouped = select(currency, func.sum(amount), func.count()).group_by(currency, func.scale(amount))
        yield from conn.execute(grouped)
        return
    # Amounts are text, which SQLite would add up as floats: it adds up their digits, of equal amounts from an index.
    equal = query.add_columns(func.count().label("times")).group_by(*query.selected_columns).subquery().c
    currency, amount, times = equal
    text = type_coerce(amount, String)
    point = func.instr(text, ".")
    places = case((text.is_(None), None), (point > 0, func.length(text) - point), else_=0)
    is_short = and_(func.length(text) <= LONGEST_SUMMED, func.instr(text, "E") == 0)
    other = case((is_short, None), else_=text)
    digits = func.sum(case((is_short, cast(func.replace(text, ".", ""), Integer) * times)))
    summed = select(currency, places, other, digits, func.sum(times)).group_by(currency, places, other)
    by_exponent: dict[tuple[str | None, int | None], tuple[Decimal | None, int]] = {}
    for name, scale, long_text, number, count in conn.execute(summed):
        part = None if long_text is None else total([(Decimal(long_text), count)])
        if number is not None:
            part = Decimal(number).scaleb(-scale, EXACT_CONTEXT)
        known, times_known = by_exponent.get((name, _exponent(part)), (None, 0))
        both = part if known is None or part is None else EXACT_CONTEXT.add(known, part)
        by_exponent[name, _exponent(part)] = both, times_known + count
    for (name, _), (part, count) in by_exponent.items():
        yield name, part, count


def _exponent(amount: Decimal | None) -> int | None:
    exponent = None if amount is None else amount.as_tuple().exponent
    return exponent if isinstance(exponent, int) else None


def _times_again(
    conn: Connection, filters: CdrFilters, matching: Conditions, twins: Sequence[_Twin]
) -> Collection[int]:
    """Return how often each matching CDR that is no repeat came again, where it did."""
    others: dict[tuple[str, str], list[_Twin]] = defaultdict(list)
    for each in twins:
        others[each.identity, each.content].append(each)
    received = _received_again(conn, filters, matching, twins)
    times: Counter[CdrKey] = Counter()
    for first, *later in others.values():
        if first.is_wanted:
            times[first.key] = sum(1 + received[each.key][1] for each in later)
    repeats = {each.key for each in twins if each.is_repeat}
    for key, (is_wanted, count) in received.items():
        if is_wanted and key not in repeats:
            times[key] += count
    return times.values()


def _received_again(
    conn: Connection, filters: CdrFilters, matching: Conditions, twins: Iterable[_Twin]
) -> Mapping[CdrKey, tuple[bool, int]]:
    """Return CDRs whose delivery may have been received more than once: whether they match, and how often again."""
    columns = cdrs.c.delivery_id, cdrs.c.position, and_(true(), *matching), receipt_count()
    joined = cdrs.join(deliveries, deliveries.c.id == cdrs.c.delivery_id)
    query = select(*(column.label(f"c{number}") for number, column in enumerate(columns))).select_from(joined)
    if filters.is_narrow:
        seen = receipts.alias("seen")
        of_twins = in_list(cdrs.c.delivery_id, {each.key[0] for each in twins})
        queries = [
            query.where(*matching, exists().where(seen.c.delivery_id == cdrs.c.delivery_id)),
            query.where(of_twins),
        ]
    else:
        queries = [query.where(in_list(cdrs.c.delivery_id, received_again(conn)))]
    found: dict[CdrKey, tuple[bool, int]] = defaultdict(lambda: (False, 0))
    for each in queries:
        for delivery_id, position, is_wanted, count in conn.execute(each):
            found[delivery_id, position] = bool(is_wanted), count
    return found


def _sharing_session(conn: Connection, filters: CdrFilters, matching: Conditions, repeats: Collection[CdrKey]) -> int:
    """Count the matching CDRs, but for repeats, whose session has a CDR of another identity."""
    shared = _shared(conn, cdrs.c.session_id, filters, matching)
    identities: dict[str, set[str]] = defaultdict(set)
    counts: Counter[str] = Counter()
    table = cdrs.c
    columns = table.session_id, table.identity, table.delivery_id, table.position, and_(true(), *matching)
    query = select(*(column.label(f"c{number}") for number, column in enumerate(columns)))
    for session_id, identity, delivery_id, position, is_wanted in (
        conn.execute(query.where(in_list(table.session_id, shared))) if shared else ()
    ):
        identities[session_id].add(identity)
        counts[session_id] += bool(is_wanted) and (delivery_id, position) not in repeats
    return sum(count for session_id, count in counts.items() if len(identities[session_id]) > 1)


def _totals(amounts: Iterable[_Sum]) -> Iterator[CurrencyTotal]:
    by_currency: dict[str | None, list[_Sum]] = defaultdict(list)
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


def _count(some: Iterable[_Sum]) -> int:
    return sum(each.times for each in some)


def _sum(some: Iterable[_Sum]) -> Decimal:
    return total((each.amount, 1) for each in some if each.amount is not None)
