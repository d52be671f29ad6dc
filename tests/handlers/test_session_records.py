import json
from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.kit.merge import FEES_KEPT, UNKNOWN_STATUSES_KEPT, USERS_KEPT, merge
from handlers.kit.session import FeeNotice, Moment, Naming, Session
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
users = st.sampled_from([f"user{number}" for number in range(USERS_KEPT + 4)])
fee_types = st.sampled_from([f"FEE_{number}" for number in range(FEES_KEPT + 4)])
statuses = st.sampled_from(
    ["STARTED", "STOPPED", "COMPLETE", *(f"NEW_{number}" for number in range(UNKNOWN_STATUSES_KEPT + 4))]
)
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

# What a re-read could say one day, beside what events say: several facts at once, statuses that nobody knows yet.
sources = st.sampled_from(["event", "drive"])
readings = st.builds(
    Session,
    st.just("S"),
    statuses=st.dictionaries(
        statuses, st.builds(lambda at, source: Moment(at, at, frozenset({source})), times, sources), max_size=12
    ),
    users=st.dictionaries(users, st.builds(Naming, times, sources), max_size=8),
    fees=st.dictionaries(fee_types, st.builds(FeeNotice, times, times), max_size=8),
)
sessions = st.lists(plain_events.map(session_of) | fee_events.map(session_of) | readings, max_size=6).map(
    lambda parts: reduce(merge, parts, Session.empty("S"))
)


def record_of(events):
    return reduce(session_record, events, Session.empty("S"))


def written(session):
    return json.dumps(session.to_document())


@given(sessions, sessions)
def test_merging_is_commutative(one, other):
    assert written(merge(one, other)) == written(merge(other, one))


@given(sessions, sessions, sessions)
def test_merging_is_associative(one, two, three):
    assert written(merge(merge(one, two), three)) == written(merge(one, merge(two, three)))


@given(sessions)
def test_merging_is_idempotent_and_nothing_adds_nothing(session):
    assert written(merge(session, session)) == written(session)
    assert written(merge(session, Session.empty("S"))) == written(session)


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
def test_what_is_missing_may_arrive_after_the_record_was_stored(data, history):
    missing = data.draw(st.sets(st.integers(0, max(len(history) - 1, 0))))
    first = record_of([event for place, event in enumerate(history) if place not in missing])
    stored = Session.from_document("S", json.loads(written(first)))
    late = [event for place, event in enumerate(history) if place in missing]
    assert written(reduce(session_record, late, stored)) == written(record_of(history))


@given(sessions)
def test_a_record_does_not_grow_without_end(session):
    assert len(session.users) <= USERS_KEPT
    assert len(session.fees) <= FEES_KEPT
    assert sum(status.startswith("NEW_") for status in session.statuses) <= UNKNOWN_STATUSES_KEPT


def test_among_too_many_users_the_latest_is_the_driver():
    events = [SessionStarted(session_id="S", user_id=f"user{n}", at=AT + n * MINUTE) for n in range(USERS_KEPT + 5)]
    assert record_of(events).user_id == record_of(events[::-1]).user_id == events[-1].user_id


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
def test_an_event_says_its_status_its_user_and_when(kind, status):
    assert session_of(kind(session_id="S", user_id="user1", at=AT)) == Session(
        "S", statuses={status: Moment(AT, AT, SOURCE)}, users={"user1": Naming(AT, "event")}
    )


def test_an_event_need_not_name_a_user():
    assert session_of(SessionStopped(session_id="S", at=AT)).users == {}


def test_a_fee_warning_says_no_status():
    event = SessionFeeIncurring(session_id="S", at=AT, fee_will_apply_from=AT + 10 * MINUTE, fee_type="BLOCKING")
    assert session_of(event) == Session("S", fees={"BLOCKING": FeeNotice(AT, AT + 10 * MINUTE)})


def test_an_event_that_we_do_not_know_names_its_user_and_says_no_status():
    event = SessionEvent(name="SESSION_PAUSED", session_id="S", user_id="user1", at=AT)
    assert session_of(event) == Session("S", users={"user1": Naming(AT, "event")})


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


def test_two_sessions_are_not_merged():
    with pytest.raises(ValueError, match="two sessions"):
        session_record(Session.empty("S"), SessionStarted(session_id="another", at=AT))
