"""Keep the record of every session: a merge of whatever its events say, in any order."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from handlers import record
from handlers.kit.session import STATUSES, FeeNotice, Moment, Naming, Session
from ingest.events import (
    SessionComplete,
    SessionEvent,
    SessionFeeIncurring,
    SessionStarted,
    SessionStartFailed,
    SessionStopFailed,
    SessionStopped,
)

STATUS_SAID: Mapping[type[SessionEvent], str] = {
    SessionStarted: "STARTED",
    SessionStopped: "STOPPED",
    SessionComplete: "COMPLETE",
    SessionStartFailed: "START_FAILED",
    SessionStopFailed: "STOP_FAILED",
}
"""The status that an event says. A fee warning says none."""

EVENT = "event"

# A sender that gives thousands of sessions one id ("null", say) must not make a record that grows without end.
USERS_KEPT = 8
FEES_KEPT = 8
UNKNOWN_STATUSES_KEPT = 16

Fact = TypeVar("Fact")
Dated = TypeVar("Dated", Naming, FeeNotice)


@record(SessionEvent)
def session_record(session: Session, event: SessionEvent) -> Session:
    """Add one event to the record of its session."""
    return merge(session, session_of(event))


def session_of(event: SessionEvent) -> Session:
    """Tell what one event alone says about its session."""
    status = STATUS_SAID.get(type(event))
    return Session(
        event.session_id,
        statuses={status: Moment(event.at, event.at, frozenset({EVENT}))} if status else {},
        users={event.user_id: Naming(event.at, EVENT)} if event.user_id else {},
        fees={event.fee_type: FeeNotice(event.at, event.fee_will_apply_from)}
        if isinstance(event, SessionFeeIncurring)
        else {},
    )


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
    )


def _union(one: Mapping[str, Fact], other: Mapping[str, Fact], both: Callable[[Fact, Fact], Fact]) -> dict[str, Fact]:
    facts = dict(one)
    for name, fact in other.items():
        facts[name] = both(facts[name], fact) if name in facts else fact
    return facts


def _both(one: Moment, other: Moment) -> Moment:
    return Moment(
        min(one.first_at, other.first_at),
        max(one.last_at, other.last_at),
        one.sources | other.sources,
    )


def _latest(facts: dict[str, Dated], count: int) -> dict[str, Dated]:
    """Keep the latest facts. Those dropped could never return: the facts before them only get later."""
    if len(facts) <= count:
        return facts
    return dict(sorted(facts.items(), key=lambda item: (item[1], item[0]))[-count:])


def _first(facts: dict[str, Moment]) -> dict[str, Moment]:
    """Keep the statuses we know, and the alphabetically first of the others.

    By name and not by time, because a dropped status that came back would have lost its first moment.
    """
    unknown = sorted(facts.keys() - STATUSES.keys())
    return {status: moment for status, moment in facts.items() if status not in unknown[UNKNOWN_STATUSES_KEPT:]}
