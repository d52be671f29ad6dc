import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.kit.session import (
    NEVER,
    ClockSkew,
    DriverAssignment,
    FeeNotice,
    OperatorName,
    Session,
    SessionWithDriver,
    StatusTimes,
)
from handlers.kit.statuses import FINAL_STATUSES, STATUS_RANK, STATUSES, Anomaly

AT = datetime(2025, 6, 12, 10, 56, 51, 123456, tzinfo=UTC)
LATER = AT + timedelta(microseconds=1)
EVENT = frozenset({"event"})

times = st.datetimes(timezones=st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
statuses = st.tuples(times, times, st.frozensets(texts, max_size=2)).map(
    lambda made: StatusTimes(min(made[:2]), max(made[:2]), made[2])
)
sessions = st.builds(
    Session,
    texts,
    statuses=st.dictionaries(st.sampled_from(list(STATUSES)) | texts, statuses),
    users=st.dictionaries(texts, st.builds(DriverAssignment, times, texts)),
    fees=st.dictionaries(texts, st.builds(FeeNotice, times, times, texts, times)),
    clock_skew=st.none() | st.builds(ClockSkew, times, times, texts),
    operator_name=st.none() | st.builds(OperatorName, st.booleans(), times, texts),
)


def session(**statuses):
    return Session(
        "S",
        statuses={name: StatusTimes(first, last or first, EVENT) for name, (first, last) in statuses.items()},
    )


@given(sessions)
def test_a_session_is_read_back_exactly_from_its_json(session):
    text = json.dumps(session.to_document(), allow_nan=False)
    assert Session.from_document(session.session_id, json.loads(text)) == session


def test_a_fee_of_an_older_ledger_was_never_moved():
    fee = {"at": AT.isoformat(), "applies_from": LATER.isoformat()}
    assert Session.from_document("S", {"fees": {"F": fee}}).fees == {"F": FeeNotice(AT, LATER, "event", NEVER)}


@given(sessions)
def test_equal_sessions_have_the_same_json(session):
    turned = Session(
        session.session_id,
        *(dict(reversed(facts.items())) for facts in (session.statuses, session.users, session.fees)),
        session.clock_skew,
        session.operator_name,
    )
    assert json.dumps(turned.to_document()) == json.dumps(session.to_document())


@given(sessions)
def test_all_properties_are_defined_for_any_facts(session):
    assert session.status in {*session.statuses, None}
    assert session.user_id in {*session.users, None}
    assert session.fee_type in {*session.fees, None}
    assert session.is_over == (session.status in FINAL_STATUSES)
    assert set(session.anomalies) <= set(Anomaly)


@pytest.mark.parametrize("document", [None, {}])
def test_no_document_is_an_empty_session(document):
    empty = Session.from_document("S", document)
    assert empty == Session.empty("S")
    assert (empty.status, empty.user_id, empty.is_over, empty.anomalies) == (None, None, False, ())
    assert (empty.started_at, empty.stopped_at, empty.completed_at) == (None, None, None)
    assert (empty.fee_type, empty.fee_will_apply_from) == (None, None)


def test_the_latest_status_counts_however_final_another_is():
    assert session(COMPLETE=(AT, None), STARTED=(LATER, None)).status == "STARTED"


@pytest.mark.parametrize(
    ("statuses", "winner"),
    [
        (["STARTED", "COMPLETE"], "COMPLETE"),
        (["STOPPED", "COMPLETE"], "COMPLETE"),
        (["STARTED", "STOPPED"], "STOPPED"),
        (["STOP_FAILED", "STOPPED"], "STOPPED"),
        (["STARTED", "STOP_FAILED"], "STOP_FAILED"),
        (["START_FAILED", "STARTED"], "STARTED"),
        (["START_FAILED", "COMPLETE"], "COMPLETE"),
        (["ASLEEP", "START_FAILED"], "START_FAILED"),
        (["ASLEEP", "BEWITCHED"], "BEWITCHED"),
    ],
)
def test_of_statuses_at_one_time_the_most_final_wins(statuses, winner):
    for order in (statuses, statuses[::-1]):
        assert session(**dict.fromkeys(order, (AT, None))).status == winner


def test_every_known_status_ranks_above_the_unknown():
    assert list(STATUS_RANK) == list(STATUSES)
    assert min(STATUS_RANK.values()) > STATUS_RANK.get("BEWITCHED", 0)
    assert set(STATUSES) >= FINAL_STATUSES


def test_a_session_begins_with_its_first_start_and_ends_with_its_last_stop():
    found = session(STARTED=(AT, LATER), STOPPED=(AT, LATER), COMPLETE=(AT, LATER))
    assert (found.started_at, found.stopped_at, found.completed_at) == (AT, LATER, LATER)


def test_the_user_named_last_is_the_driver():
    assert (
        Session("S", users={"b": DriverAssignment(AT, "event"), "a": DriverAssignment(LATER, "event")}).user_id == "a"
    )


def test_of_users_named_at_one_time_the_choice_is_deterministic():
    for order in ("ab", "ba"):
        assert Session("S", users={user: DriverAssignment(AT, "event") for user in order}).user_id == "b"


@pytest.mark.parametrize(
    ("blocking", "congestion", "winner"),
    [
        (FeeNotice(AT, AT, "event"), FeeNotice(LATER, AT, "event"), "CONGESTION"),
        (FeeNotice(LATER, AT, "event"), FeeNotice(AT, LATER, "event"), "BLOCKING"),
        (FeeNotice(AT, LATER, "event"), FeeNotice(AT, AT, "event"), "BLOCKING"),
        (FeeNotice(AT, AT, "event"), FeeNotice(AT, AT, "event"), "CONGESTION"),
    ],
)
def test_the_latest_fee_notice_counts(blocking, congestion, winner):
    found = Session("S", fees={"CONGESTION": congestion, "BLOCKING": blocking})
    assert found.fee_type == winner
    assert found.fee_will_apply_from == found.fees[winner].applies_from


@pytest.mark.parametrize(
    ("earlier", "later", "anomaly"),
    [
        ("COMPLETE", "STARTED", "started_after_complete"),
        ("STOPPED", "STARTED", "started_after_stopped"),
        ("START_FAILED", "STARTED", "started_after_start_failed"),
        ("STARTED", "START_FAILED", "start_failed_after_started"),
    ],
)
def test_statuses_out_of_order_are_an_anomaly(earlier, later, anomaly):
    assert session(**{earlier: (AT, None), later: (LATER, None)}).anomalies == (anomaly,)
    assert session(**{earlier: (AT, None), later: (AT, None)}).anomalies == ()


def test_an_anomaly_stays_when_the_session_went_on_afterwards():
    found = session(STARTED=(AT, LATER), COMPLETE=(AT, LATER + timedelta(hours=1)))
    assert found.status == "COMPLETE"
    assert found.anomalies == (Anomaly.STARTED_AFTER_COMPLETE,)


def test_two_users_are_an_anomaly():
    assert Session("S", users={user: DriverAssignment(AT, "event") for user in "ab"}).anomalies == ("two_users",)


def test_a_usual_session_has_no_anomaly():
    usual = session(STARTED=(AT, None), STOP_FAILED=(LATER, None), STOPPED=(LATER, None), COMPLETE=(LATER, None))
    assert usual.anomalies == ()


def test_a_session_with_driver_always_has_one():
    assert SessionWithDriver("S", users={"a": DriverAssignment(AT, "event")}).user_id == "a"
    with pytest.raises(LookupError):
        _ = SessionWithDriver("S").user_id
