"""Put together what is known of a session in several places, in any order."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from handlers.kit.session import EVENT, ClockSkew, DriverAssignment, FeeNotice, Session, StatusTimes
from handlers.kit.statuses import STATUSES

# A sender that gives thousands of sessions one id ("null", say) must not make a record that grows without end.
USERS_KEPT = 8
FEES_KEPT = 8
UNKNOWN_STATUSES_KEPT = 16

Fact = TypeVar("Fact")
TimedFact = TypeVar("TimedFact", DriverAssignment, FeeNotice)


def merge(one: Session, other: Session) -> Session:
    """Put together what is known of a session in two places.

    Commutative, associative and idempotent: a record is a function of the set of its sources, however often and in
    whatever order they come.
    """
    if one.session_id != other.session_id:
        raise ValueError("two sessions cannot be merged")
    return Session(
        one.session_id,
        statuses=_first(_union(one.statuses, other.statuses, _both)),
        users=_latest(_union(one.users, other.users, max), USERS_KEPT),
        fees=_latest(_union(one.fees, other.fees, max), FEES_KEPT),
        lead=max(filter(None, (one.lead, other.lead)), key=_by_skew, default=None),
    )


def with_clock_skew(session: Session, at: datetime, received_at: datetime, allowed: timedelta) -> Session:
    """Note that a time of an event lay ahead of our clock when it came, if by more than is allowed.

    When it came is part of the fact, so a record does not change as time goes by, nor when its events are read again.
    """
    if at - received_at <= allowed:
        return session
    return merge(session, Session(session.session_id, lead=ClockSkew(at, received_at, EVENT)))


def _by_skew(lead: ClockSkew) -> tuple[timedelta, datetime, str]:
    return lead.span, lead.at, lead.source


def _union(one: Mapping[str, Fact], other: Mapping[str, Fact], both: Callable[[Fact, Fact], Fact]) -> dict[str, Fact]:
    facts = dict(one)
    for name, fact in other.items():
        facts[name] = both(facts[name], fact) if name in facts else fact
    return facts


def _both(one: StatusTimes, other: StatusTimes) -> StatusTimes:
    return StatusTimes(
        min(one.first_at, other.first_at),
        max(one.last_at, other.last_at),
        one.sources | other.sources,
    )


def _latest(facts: dict[str, TimedFact], count: int) -> dict[str, TimedFact]:
    """Keep the latest facts. Those dropped could never return: the facts before them only get later."""
    if len(facts) <= count:
        return facts
    return dict(sorted(facts.items(), key=lambda item: (item[1], item[0]))[-count:])


def _first(facts: dict[str, StatusTimes]) -> dict[str, StatusTimes]:
    """Keep the statuses we know, and the alphabetically first of the others.

    By name and not by time, because a dropped status that came back would have lost its first moment.
    """
    unknown = sorted(facts.keys() - STATUSES.keys())
    return {status: moment for status, moment in facts.items() if status not in unknown[UNKNOWN_STATUSES_KEPT:]}
