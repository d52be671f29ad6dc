"""Merge records of one session, in any order."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

from handlers.kit.session import EVENT, ClockSkew, DriverAssignment, FeeNotice, Session, StatusTimes
from handlers.kit.statuses import STATUSES

# Bounds of a record: a sender may use one id ("null", say) for thousands of sessions.
MAX_USERS = 8
MAX_FEES = 16
MAX_UNKNOWN_STATUSES = 16

Fact = TypeVar("Fact")


def merge(one: Session, other: Session) -> Session:
    """Merge two records of one session.

    Commutative, associative and idempotent: a record is a function of the set of its sources, in any order and with any
    repeats.
    """
    if one.session_id != other.session_id:
        raise ValueError("two sessions cannot be merged")
    if _is_empty(one) and _is_small(other):  # the usual case, many times a batch
        return other
    return Session(
        one.session_id,
        statuses=_first(_union(one.statuses, other.statuses, _both)),
        users=_latest_users(_union(one.users, other.users, max)),
        # By name, as statuses: a dropped fee that came back would have lost `moved_at`. Dropped users stay away.
        fees=_first_fees(_union(one.fees, other.fees, _latest_notice)),
        clock_skew=_greater(one.clock_skew, other.clock_skew, attrgetter("span", "at", "source")),
        operator_name=_greater(one.operator_name, other.operator_name),
    )


def with_clock_skew(session: Session, at: datetime, received_at: datetime, allowed: timedelta) -> Session:
    """Return the record with the time of an event, if that was ahead of our clock by more than is allowed.

    When it was received is part of the fact, so a record never changes as time passes or when events are read again.
    """
    if at - received_at <= allowed:
        return session
    return merge(session, Session(session.session_id, clock_skew=ClockSkew(at, received_at, EVENT)))


def _is_empty(session: Session) -> bool:
    is_known = session.statuses or session.users or session.fees or session.clock_skew or session.operator_name
    return not is_known


def _is_small(session: Session) -> bool:
    return max(len(session.statuses), len(session.users), len(session.fees)) <= min(
        MAX_UNKNOWN_STATUSES, MAX_USERS, MAX_FEES
    )


def _union(one: Mapping[str, Fact], other: Mapping[str, Fact], both: Callable[[Fact, Fact], Fact]) -> dict[str, Fact]:
    if not one or not other:
        return dict(one or other)
    facts = dict(one)
    for name, fact in other.items():
        facts[name] = both(facts[name], fact) if name in facts else fact
    return facts


def _greater(one: Fact | None, other: Fact | None, key: Callable[[Fact], Any] = lambda fact: fact) -> Fact | None:
    if one is None or other is None:
        return one or other
    return max(one, other, key=key)


def _latest_users(facts: dict[str, DriverAssignment]) -> dict[str, DriverAssignment]:
    return facts if len(facts) <= MAX_USERS else dict(sorted(facts.items(), key=itemgetter(1, 0))[-MAX_USERS:])


def _first_fees(facts: dict[str, FeeNotice]) -> dict[str, FeeNotice]:
    return facts if len(facts) <= MAX_FEES else dict(sorted(facts.items())[:MAX_FEES])


def _both(one: StatusTimes, other: StatusTimes) -> StatusTimes:
    return StatusTimes(
        min(one.first_at, other.first_at),
        max(one.last_at, other.last_at),
        one.sources | other.sources,
    )


def _latest_notice(one: FeeNotice, other: FeeNotice) -> FeeNotice:
    older, newer = sorted((one, other))
    moved_at = older.moved_at if older.applies_from == newer.applies_from else older.at
    return replace(newer, moved_at=max(newer.moved_at, moved_at))


def _first(facts: dict[str, StatusTimes]) -> dict[str, StatusTimes]:
    """Return the known statuses, and the alphabetically first of the others.

    By name and not by time, because a dropped status that came back would have lost its first time.
    """
    if len(facts) <= MAX_UNKNOWN_STATUSES:
        return facts
    unknown = sorted(facts.keys() - STATUSES.keys())
    return {status: times for status, times in facts.items() if status not in unknown[MAX_UNKNOWN_STATUSES:]}
