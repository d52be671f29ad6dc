"""Record every session: a merge of its events, in any order."""

from handlers import record
from handlers.kit.merge import merge
from handlers.kit.session import EVENT, DriverAssignment, FeeNotice, Session, StatusTimes
from handlers.kit.statuses import STATUS_BY_EVENT
from ingest.events import SessionEvent, SessionFeeIncurring


@record(SessionEvent)
def session_record(session: Session, event: SessionEvent) -> Session:
    """Merge one event into the record of its session."""
    return merge(session, session_of(event))


def session_of(event: SessionEvent) -> Session:
    """Return the record that one event alone makes."""
    status = STATUS_BY_EVENT.get(event.name, event.session_status)
    return Session(
        event.session_id,
        statuses={status: StatusTimes(event.at, event.at, frozenset({EVENT}))} if status else {},
        users={event.user_id: DriverAssignment(event.at, EVENT)} if event.user_id else {},
        fees={event.fee_type: FeeNotice(event.at, event.fee_will_apply_from, EVENT)}
        if isinstance(event, SessionFeeIncurring)
        else {},
    )
