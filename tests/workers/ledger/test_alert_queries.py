"""What the alert rules look at: each query is limited, and leaves out what an alert was raised for."""

from datetime import timedelta

import pytest
from sqlalchemy import insert

from handlers.kit.cdr_table import CdrNote, cdrs
from workers.ledger import alert_queries
from workers.ledger.alert_queries import Backlog, OddCdr, StaleSession
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables.alert_tables import alerts
from workers.ledger.tables.core_tables import sessions
from workers.ledger.tables.reconciliation_tables import ROUTINE, downtimes

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def put(ledger, noon):
    """Insert rows by table, each with the usual values of the columns that a test does not name."""
    usual = {
        sessions: {"anomalies": [], "facts": {}, "updated_at": noon},
        cdrs: {"position": 0, "notes": [], "document": "{}", "received_at": noon, "recorded_at": noon},
        alerts: {"kind": "k", "sentence": "It happened.", "raised_at": noon},
        downtimes: {"closed_at": noon - HOUR, "noticed_at": noon, "sessions_read": 0, "users_failed": 0},
    }

    def insert_row(table, **values):
        if table is cdrs:
            values |= {"identity": values.get("request_id") or values["delivery_id"], "content": values["delivery_id"]}
        with ledger.begin() as conn:
            conn.execute(insert(table).values({**usual[table], **values}))

    return insert_row


@pytest.fixture
def find(ledger):
    def call(query, *arguments):
        with ledger.begin() as conn:
            return query(conn, *arguments)

    return call


def test_alerts_are_found_by_subject(put, find, noon):
    put(alerts, id="a1", subject="open")
    put(alerts, id="a2", subject="closed", resolved_at=noon)
    put(alerts, id="a3", subject="closed", resolved_at=noon + HOUR)
    put(alerts, id="a4", subject="other", kind="another kind")
    assert find(alert_queries.open_subjects, "k") == {"open"}
    assert find(alert_queries.last_resolved_at, "k", "closed") == noon + HOUR
    assert find(alert_queries.last_resolved_at, "k", "open") is None


def test_unreadable_deliveries_of_a_week_are_counted_by_kind(ledger, find, noon):
    ledger.store(ledger.delivery("old", received_at=noon - 8 * DAY), state=DeliveryState.UNREADABLE)
    ledger.store(ledger.delivery("d1", received_at=noon - HOUR), state=DeliveryState.UNREADABLE)
    ledger.store(ledger.delivery("d2"), state=DeliveryState.UNREADABLE)
    ledger.store(ledger.delivery("cdr", kind="cdrs"), state=DeliveryState.UNREADABLE)
    ledger.store(ledger.delivery("settled"))
    backlog = find(alert_queries.unreadable_backlog, "events", noon, None)
    assert (backlog.subject, backlog.count, backlog.last_delivery) == ("events", 2, "d2")
    assert find(alert_queries.unreadable_backlog, "events", noon, noon) == backlog
    assert find(alert_queries.unreadable_backlog, "events", noon, backlog.last_at) is None


def test_dead_letters_are_counted_by_handler(ledger, find, noon):
    ledger.store(*(ledger.delivery(name) for name in ("d1", "d2", "d3")))
    ledger.run("d1", "warn", Outcome.DEAD, finished_at=noon)
    ledger.run("d2", "warn", Outcome.DEAD, finished_at=noon + MINUTE)
    ledger.run("d2", "bill", Outcome.DEAD, finished_at=noon)
    ledger.run("d3", "done", Outcome.DONE, finished_at=noon)
    assert find(alert_queries.handlers_of_dead) == ["bill", "warn"]
    assert find(alert_queries.dead_letter_backlog, "warn", None) == Backlog("warn", 2, noon + MINUTE, "d2")
    assert find(alert_queries.dead_letter_backlog, "warn", noon) == Backlog("warn", 1, noon + MINUTE, "d2")
    assert find(alert_queries.dead_letter_backlog, "warn", noon + MINUTE) is None


def test_long_running_sessions_are_found_until_an_alert_is_raised(put, find, noon):
    put(sessions, session_id="long", status="STARTED", started_at=noon - 2 * HOUR)
    put(sessions, session_id="short", status="STARTED", started_at=noon - HOUR / 2)
    put(sessions, session_id="ended", status="STOPPED", started_at=noon - 2 * HOUR)
    put(sessions, session_id="ancient", status="STARTED", started_at=noon - 30 * DAY)
    stale = StaleSession("long", "STARTED", noon - 2 * HOUR, noon)
    assert find(alert_queries.long_running_sessions, "k", noon, HOUR) == [stale]
    put(alerts, id="a1", subject="long", resolved_at=noon - MINUTE)
    assert find(alert_queries.long_running_sessions, "k", noon, HOUR) == [stale]
    put(alerts, id="a2", subject="long", resolved_at=noon)
    assert find(alert_queries.long_running_sessions, "k", noon, HOUR) == []


def test_alerts_whose_sessions_have_ended_are_found(put, find):
    for name, status in (("ended", "STOPPED"), ("open", "STARTED")):
        put(sessions, session_id=name, status=status)
        put(alerts, id=name, subject=name)
    assert find(alert_queries.ended_sessions, "k") == ["ended"]


def test_complete_sessions_without_a_cdr_are_found_until_it_comes(put, find, noon):
    put(sessions, session_id="s1", status="COMPLETE", completed_at=noon - 2 * HOUR, updated_at=noon - 2 * HOUR)
    put(sessions, session_id="new", status="COMPLETE", completed_at=noon, updated_at=noon)
    put(sessions, session_id="open", status="STARTED", updated_at=noon - 2 * HOUR)
    put(alerts, id="a1", subject="s1", kind="another kind")
    without = StaleSession("s1", "COMPLETE", noon - 2 * HOUR, noon - 2 * HOUR)
    assert find(alert_queries.sessions_without_cdr, "k", noon, HOUR) == [without]
    assert find(alert_queries.sessions_with_cdr, "another kind") == []
    put(cdrs, delivery_id="c1", session_id="s1")
    assert find(alert_queries.sessions_without_cdr, "k", noon, HOUR) == []
    assert find(alert_queries.sessions_with_cdr, "another kind") == ["s1"]


def test_the_latest_of_conflicting_cdrs_is_found_for_each_request_id(put, find, noon):
    for number, request_id in enumerate(["r1", "r1", "r1", "r2", None, None]):
        recorded_at = noon + number * MINUTE
        put(cdrs, delivery_id=f"c{number}", session_id="s1", request_id=request_id, recorded_at=recorded_at)
    latest = OddCdr("r1", "r1", "c2", "s1", noon + 2 * MINUTE, [])
    assert find(alert_queries.cdr_conflicts, "k", noon - HOUR) == [latest]
    assert find(alert_queries.cdr_conflicts, "k", noon + 2 * MINUTE) == []
    put(alerts, id="a1", subject="r1")
    assert find(alert_queries.cdr_conflicts, "k", noon - HOUR) == []


def test_implausible_cdrs_are_found_and_settle(put, find, noon):
    put(cdrs, delivery_id="c1", request_id="r1", notes=[CdrNote.NEGATIVE_ENERGY, CdrNote.NO_AMOUNT])
    put(cdrs, delivery_id="c2", request_id="r2", notes=[CdrNote.NO_AMOUNT])
    for number in (3, 4):
        put(cdrs, delivery_id=f"c{number}", session_id="s1", recorded_at=noon + number * MINUTE)
    for position in range(3):
        put(cdrs, delivery_id="c5", position=position, notes=[CdrNote.NOT_A_CDR])
    found = find(alert_queries.implausible_cdrs, "k", noon - HOUR)
    assert {one.subject for one in found} == {"r1", "c5", "session s1"}
    put(alerts, id="a0", subject="c5", delivery_id="c5")
    found = find(alert_queries.implausible_cdrs, "k", noon - HOUR)
    assert [(one.subject, one.delivery_id) for one in found] == [("r1", "c1"), ("session s1", "c4")]
    put(alerts, id="a1", subject="r1", delivery_id="c1")
    put(alerts, id="a2", subject="session s1", session_id="s1", delivery_id="c4")
    put(alerts, id="a3", subject="r2", delivery_id="c2")
    assert find(alert_queries.implausible_cdrs, "k", noon - HOUR) == []
    assert find(alert_queries.settled_implausible_cdrs, "k") == ["r2"]
    assert sorted(find(alert_queries.settled_cdr_conflicts, "k")) == ["c5", "r1", "r2", "session s1"]


def test_downtimes_of_a_week_are_listed_without_routine_windows(put, find, noon):
    put(downtimes, inbox="here", opened_at=noon - DAY)
    put(downtimes, inbox="there", opened_at=noon - HOUR)
    put(downtimes, inbox="old", opened_at=noon - 8 * DAY)
    put(downtimes, inbox=ROUTINE, opened_at=noon)
    assert [row.inbox for row in find(alert_queries.recent_downtimes, noon)] == ["there", "here"]


def test_traffic_is_that_of_events(ledger, find, noon):
    assert find(alert_queries.last_event_at, noon) is None
    assert find(alert_queries.oldest_delivery_at) is None
    ledger.store(
        ledger.delivery("cdr", kind="cdrs", received_at=noon + HOUR),
        *(ledger.delivery(f"d{number}", received_at=noon - number * HOUR) for number in range(4)),
        ledger.delivery("old", received_at=noon - 8 * DAY),
    )
    assert find(alert_queries.last_event_at, noon) == noon
    assert find(alert_queries.last_event_at, noon + 30 * DAY) is None
    assert find(alert_queries.oldest_delivery_at) == noon - 8 * DAY
    assert find(alert_queries.count_events, noon, 2 * HOUR, 100) == 2
    assert find(alert_queries.count_events, noon, DAY, 3) == 3


def test_a_backlog_is_counted_up_to_a_limit(ledger, find, noon, monkeypatch):
    monkeypatch.setattr(alert_queries, "MAX_COUNTED", 2)
    ledger.store(*(ledger.delivery(f"d{number}") for number in range(3)), state=DeliveryState.UNREADABLE)
    assert find(alert_queries.unreadable_backlog, "events", noon, None).count == 2
