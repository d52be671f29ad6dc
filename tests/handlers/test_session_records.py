import json
from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.kit.merge import MAX_FEES, MAX_USERS, merge
from handlers.kit.session import NEVER, DriverAssignment, FeeNotice, Session, StatusTimes
from handlers.session_records import session_of, session_record
from ingest.events import (
    SessionComplete,
    SessionEvent,
    SessionFeeIncurring,
    SessionStarted,
    SessionStartFailed,
    SessionStopFailed,
    SessionStopped,
)

AT = datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SOURCE = frozenset({"event"})

# Few values, so that equal times, repeated names and more than is kept all come up often.
times = st.integers(0, 5).map(lambda minutes: AT + minutes * MINUTE)
users = st.sampled_from([f"user{number}" for number in range(MAX_USERS + 4)])
fee_types = st.sampled_from([f"FEE_{number}" for number in range(MAX_FEES + 4)])
kinds = st.sampled_from([SessionStarted, SessionStopped, SessionComplete, SessionStartFailed, SessionStopFailed])
plain_events = st.builds(
    lambda kind, user, at: kind(session_id="S", user_id=user, at=at), kinds, st.none() | users, times
)
fee_events = st.builds(
    lambda at, start, fee: SessionFeeIncurring(session_id="S", at=at, fee_will_apply_from=start, fee_type=fee),
    times,
    times,
    fee_types,
)
histories = st.lists(plain_events | fee_events, max_size=20)


def record_of(events):
    return reduce(session_record, events, Session.empty("S"))


def written(session):
    return json.dumps(session.to_document())


@given(st.data(), histories)
def test_any_order_and_repetition_gives_the_same_record(data, history):
    again = data.draw(st.lists(st.sampled_from(history), max_size=10) if history else st.just([]))
    shuffled = data.draw(st.permutations(history + again))
    assert written(record_of(shuffled)) == written(record_of(history))


@given(st.data(), histories)
def test_any_partition_among_workers_gives_the_same_record(data, history):
    owners = data.draw(st.lists(st.integers(0, 2), min_size=len(history), max_size=len(history)))
    parts = [
        record_of([event for event, owner in zip(history, owners, strict=True) if owner == part]) for part in range(3)
    ]
    assert written(reduce(merge, data.draw(st.permutations(parts)))) == written(record_of(history))


@given(st.data(), histories)
def test_missing_events_may_arrive_after_the_record_was_stored(data, history):
    missing = data.draw(st.sets(st.integers(0, max(len(history) - 1, 0))))
    first = record_of([event for place, event in enumerate(history) if place not in missing])
    stored = Session.from_document("S", json.loads(written(first)))
    late = [event for place, event in enumerate(history) if place in missing]
    assert written(reduce(session_record, late, stored)) == written(record_of(history))


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (SessionStarted, "STARTED"),
        (SessionStopped, "STOPPED"),
        (SessionComplete, "COMPLETE"),
        (SessionStartFailed, "START_FAILED"),
        (SessionStopFailed, "STOP_FAILED"),
    ],
)
def test_an_event_has_a_status_a_user_and_a_time(kind, status):
    assert session_of(kind(session_id="S", user_id="user1", at=AT)) == Session(
        "S", statuses={status: StatusTimes(AT, AT, SOURCE)}, users={"user1": DriverAssignment(AT, "event")}
    )


def test_an_event_may_have_no_user():
    assert session_of(SessionStopped(session_id="S", at=AT)).users == {}


def test_a_fee_notice_has_no_status():
    event = SessionFeeIncurring(session_id="S", at=AT, fee_will_apply_from=AT + 10 * MINUTE, fee_type="BLOCKING")
    assert session_of(event) == Session("S", fees={"BLOCKING": FeeNotice(AT, AT + 10 * MINUTE, "event")})


@given(st.lists(st.tuples(times, times), min_size=1, max_size=8))
def test_a_fee_has_the_time_of_the_latest_notice_with_another_start(notices):
    fees = [
        SessionFeeIncurring(session_id="S", at=at, fee_will_apply_from=start, fee_type="F") for at, start in notices
    ]
    latest_at, current = max(notices)
    moved_at = max((at for at, start in notices if start != current), default=NEVER)
    assert record_of(fees).fees == {"F": FeeNotice(latest_at, current, "event", moved_at)}


def test_an_unknown_event_has_a_user_and_no_status():
    event = SessionEvent(name="SESSION_PAUSED", session_id="S", user_id="user1", at=AT)
    assert session_of(event) == Session("S", users={"user1": DriverAssignment(AT, "event")})


def test_a_whole_session():
    record = record_of(
        [
            SessionComplete(session_id="S", user_id="user1", at=AT + 31 * MINUTE),
            SessionFeeIncurring(
                session_id="S", at=AT + MINUTE, fee_will_apply_from=AT + 11 * MINUTE, fee_type="BLOCKING"
            ),
            SessionStarted(session_id="S", user_id="user1", at=AT),
            SessionStopped(session_id="S", user_id="user1", at=AT + 30 * MINUTE),
        ]
    )
    assert (record.status, record.user_id, record.is_over) == ("COMPLETE", "user1", True)
    assert (record.started_at, record.stopped_at) == (AT, AT + 30 * MINUTE)
    assert record.completed_at == AT + 31 * MINUTE
    assert (record.fee_type, record.fee_will_apply_from) == ("BLOCKING", AT + 11 * MINUTE)
    assert record.anomalies == ()


def test_a_late_event_does_not_reopen_a_session():
    over = record_of([SessionComplete(session_id="S", at=AT + MINUTE)])
    assert session_record(over, SessionStarted(session_id="S", at=AT)).status == "COMPLETE"
    assert session_record(over, SessionStarted(session_id="S", at=AT + MINUTE)).status == "COMPLETE"


def test_a_session_may_start_after_it_failed_to():
    record = record_of(
        [SessionStarted(session_id="S", at=AT + MINUTE), SessionStartFailed(session_id="S", at=AT)],
    )
    assert (record.status, record.is_over) == ("STARTED", False)
    assert record.anomalies == ("started_after_start_failed",)
