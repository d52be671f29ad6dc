"""Keep the record of every session: a merge of whatever its events say, in any order."""

from collections.abc import Mapping

from handlers import record
from handlers.kit.merge import merge
from handlers.kit.session import FeeNotice, Moment, Naming, Session
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
