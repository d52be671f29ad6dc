"""Sum up CDRs for a person, exactly: those that count, those in conflict, and those that came again."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, not_, select, union

from handlers.kit.cdr_table import cdrs
from handlers.kit.field_extraction import total
from workers.ledger.cdr_queries import (
    IN_CONFLICT,
    IS_COUNTED,
    IS_REPEAT,
    OTHER,
    SHARES_SESSION,
    CdrFilters,
    came_again,
    duplicates,
    partners,
    select_matching,
    with_deliveries,
)
from workers.ledger.database.conditions import in_list


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
    twice = None if filters.is_narrow else partners(conn)
    related = _related(conn, filters, twice)
    alone = [] if filters.is_narrow else _alone(conn, filters, related)
    amounts = [*alone, *(each.amount for each in related if not each.is_repeat)]
    in_conflict = {each.request_id for each in related if each.amount.in_conflict and not each.is_repeat}
    without_request_id = select_matching(conn, filters).where(cdrs.c.request_id.is_(None))
    repeats_of_these = sum(each.request_id is None and each.is_repeat for each in related)
    again = select_matching(conn, filters).where(not_(IS_REPEAT), *([] if twice is None else [came_again(conn, twice)]))
    times = again.with_only_columns(duplicates().label("times")).select_from(with_deliveries(cdrs)).subquery()
    repeated = select(func.count(), func.coalesce(func.sum(times.c.times), 0)).where(times.c.times > 0)
    repeated_count, repeats = conn.execute(repeated).one()
    return CdrSummary(
        cdrs=_count(amounts),
        in_conflict=_count(each for each in amounts if each.in_conflict),
        request_ids_in_conflict=len(in_conflict - {None}),
        without_request_id=_count_rows(conn, without_request_id) - repeats_of_these,
        sharing_session=sum(each.shares_session and not each.is_repeat for each in related),
        repeated=repeated_count,
        repeats=int(repeats),
        totals=tuple(_totals(amounts)),
    )


def totals(conn: Connection, filters: CdrFilters) -> tuple[CurrencyTotal, ...]:
    """Return the totals of the matching CDRs, exactly: the part of the summary that is had soonest."""
    related = _related(conn, filters, None if filters.is_narrow else partners(conn))
    alone = [] if filters.is_narrow else _alone(conn, filters, related)
    return tuple(_totals([*alone, *(each.amount for each in related if not each.is_repeat)]))


class _Amount(NamedTuple):
    """An amount that some CDRs have, what else is equal, and how many there are."""

    currency: str | None
    amount: Decimal | None
    in_conflict: bool = False
    is_counted: bool = True
    times: int = 1


class _Related(NamedTuple):
    """A CDR that may have another one of its identity, or of its session."""

    amount: _Amount
    request_id: str | None
    is_repeat: bool
    shares_session: bool


def _related(conn: Connection, filters: CdrFilters, twice: Collection[str] | None) -> list[_Related]:
    """List the matching CDRs of these identities, and of the sessions of several; None: all that match."""
    query = select_matching(conn, filters)
    if twice is not None:
        of_session = cdrs.c.session_id
        shared = conn.scalars(select(of_session).group_by(of_session).having(func.count() > 1))
        found = union(
            select(OTHER.c.delivery_id).where(in_list(OTHER.c.identity, twice)),
            select(OTHER.c.delivery_id).where(in_list(OTHER.c.session_id, set(shared) - {None})),
        )
        query = query.where(cdrs.c.delivery_id.in_(found))
    columns = (cdrs.c.currency, cdrs.c.amount, IN_CONFLICT, IS_COUNTED, cdrs.c.request_id, IS_REPEAT, SHARES_SESSION)
    return [
        _Related(_Amount(currency, amount, bool(in_conflict), bool(is_counted)), request_id, bool(again), bool(shares))
        for currency, amount, in_conflict, is_counted, request_id, again, shares in conn.execute(
            query.with_only_columns(*(column.label(f"c{number}") for number, column in enumerate(columns)))
        )
    ]


def _alone(conn: Connection, filters: CdrFilters, related: Iterable[_Related]) -> list[_Amount]:
    """List the amounts of all other matching CDRs.

    The database counts equal ones, which are few, from an index; they are added up here, for SQLite adds floats only.
    """
    columns = cdrs.c.currency, cdrs.c.amount
    counts: Counter[tuple[str | None, Decimal | None]] = Counter()
    query = select_matching(conn, filters).with_only_columns(*columns, func.count()).group_by(*columns)
    for currency, amount, count in conn.execute(query):
        counts[currency, amount] += count
    counts.subtract((each.amount.currency, each.amount.amount) for each in related)
    return [_Amount(*which, times=count) for which, count in counts.items() if count]


def _count_rows(conn: Connection, query: Select[Any]) -> int:
    return conn.execute(query.with_only_columns(func.count())).scalar_one()


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
