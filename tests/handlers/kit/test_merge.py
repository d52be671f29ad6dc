import json
from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.kit.merge import MAX_FEES, MAX_UNKNOWN_STATUSES, MAX_USERS, merge, with_clock_skew
from handlers.kit.session import ClockSkew, DriverAssignment, FeeNotice, OperatorName, Session, StatusTimes
from handlers.kit.statuses import Anomaly

AT = datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SOURCE = frozenset({"event"})

# Few values, so that equal times, repeated names and more than is kept all come up often.
times = st.integers(0, 5).map(lambda minutes: AT + minutes * MINUTE)
sources = st.sampled_from(["event", "drive"])
users = st.sampled_from([f"user{number}" for number in range(MAX_USERS + 4)])
fee_types = st.sampled_from([f"FEE_{number}" for number in range(MAX_FEES + 4)])
statuses = st.sampled_from(
    ["STARTED", "STOPPED", "COMPLETE", *(f"NEW_{number}" for number in range(MAX_UNKNOWN_STATUSES + 4))]
)

# What one source knows: several facts at once, unknown statuses.
readings = st.builds(
    Session,
    st.just("S"),
    statuses=st.dictionaries(
        statuses, st.builds(lambda at, source: StatusTimes(at, at, frozenset({source})), times, sources), max_size=12
    ),
    users=st.dictionaries(users, st.builds(DriverAssignment, times, sources), max_size=8),
    fees=st.dictionaries(fee_types, st.builds(FeeNotice, times, times, sources), max_size=8),
    clock_skew=st.none() | st.builds(ClockSkew, times, times, sources),
    operator_name=st.none() | st.builds(OperatorName, st.booleans(), times, st.sampled_from(["one", "other"])),
)
sessions = st.lists(readings, max_size=4).map(lambda parts: reduce(merge, parts, Session.empty("S")))


def written(session):
    return json.dumps(session.to_document())


@given(sessions, sessions)
def test_merging_is_commutative(one, other):
    assert written(merge(one, other)) == written(merge(other, one))


@given(sessions, sessions, sessions)
def test_merging_is_associative(one, two, three):
    assert written(merge(merge(one, two), three)) == written(merge(one, merge(two, three)))


@given(sessions)
def test_merging_is_idempotent_and_an_empty_session_is_neutral(session):
    assert written(merge(session, session)) == written(session)
    assert written(merge(session, Session.empty("S"))) == written(session)


@given(sessions)
def test_a_record_does_not_grow_without_bound(session):
    assert len(session.users) <= MAX_USERS
    assert len(session.fees) <= MAX_FEES
    assert sum(status.startswith("NEW_") for status in session.statuses) <= MAX_UNKNOWN_STATUSES


def test_among_too_many_users_the_latest_is_the_driver():
    named = [Session("S", users={f"user{n}": DriverAssignment(AT + n * MINUTE, "event")}) for n in range(MAX_USERS + 5)]
    assert reduce(merge, named).user_id == reduce(merge, named[::-1]).user_id == named[-1].user_id


def test_a_status_has_its_first_and_last_time_and_all_sources():
    parts = [
        Session("S", statuses={"STARTED": StatusTimes(at, at, frozenset({source}))})
        for at, source in [(AT + MINUTE, "event"), (AT, "drive"), (AT + 2 * MINUTE, "event")]
    ]
    expected = StatusTimes(AT, AT + 2 * MINUTE, frozenset({"drive", "event"}))
    assert reduce(merge, parts).statuses == {"STARTED": expected}


def test_two_sessions_are_not_merged():
    with pytest.raises(ValueError, match="two sessions"):
        merge(Session.empty("S"), Session.empty("another"))


def test_a_time_ahead_of_our_clock_is_an_anomaly_whenever_it_is_read_again():
    session = with_clock_skew(Session.empty("S"), AT + 6 * MINUTE, AT, 5 * MINUTE)
    assert session.anomalies == (Anomaly.AHEAD_OF_CLOCK,)
    assert session.clock_skew.span == 6 * MINUTE
    assert with_clock_skew(session, AT + 6 * MINUTE, AT + 99 * MINUTE, 5 * MINUTE) == session


def test_a_small_clock_skew_is_allowed():
    assert with_clock_skew(Session.empty("S"), AT + 5 * MINUTE, AT, 5 * MINUTE) == Session.empty("S")
