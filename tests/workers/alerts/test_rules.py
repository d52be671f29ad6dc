"""The alert rules: one alert for each cause, none where all is well."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from handlers.kit.cdr_table import CdrNote, cdrs
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables.core_tables import runs as runs_table
from workers.ledger.tables.reconciliation_tables import ROUTINE, downtimes

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WEEK = 7 * DAY


def test_a_session_that_stays_open_is_one_alert_until_it_ends(watched):
    watched.session("runs", "STARTED", 25 * HOUR)
    watched.session("fails to stop", "STOP_FAILED", 25 * HOUR)
    watched.session("new", "STARTED", 23 * HOUR)
    watched.session("over", "COMPLETE", 25 * HOUR)
    watched.session("of old", "STARTED", 30 * DAY)
    assert watched.evaluate() == watched.evaluate() == ["session_open"] * 2
    assert {row.session_id for row in watched.alerts()} == {"runs", "fails to stop"}
    watched.set_status("runs", "COMPLETE")
    with capture_logs() as lines:
        assert watched.evaluate() == ["session_open"]
    assert [(line["event"], line["count"]) for line in lines] == [("alerts.resolved", 1)]
    watched.set_status("runs", "STARTED")
    assert watched.evaluate() == ["session_open"] * 2


def test_an_alert_that_a_person_resolved_is_not_raised_again_while_nothing_is_new(watched):
    watched.session("runs", "STARTED", 25 * HOUR)
    watched.evaluate()
    watched.resolve()
    assert watched.evaluate() == []


def test_a_complete_session_without_a_cdr_is_an_alert_where_cdrs_are_expected(watched):
    for name in ("bare", "billed"):
        watched.session(name, "COMPLETE", 3 * DAY)
    watched.session("just heard of", "COMPLETE", 3 * DAY, known=HOUR)
    watched.session("stopped", "STOPPED", 3 * DAY)
    watched.cdr("d1", session_id="billed")
    assert watched.evaluate() == []
    assert watched.evaluate(watch_cdr_missing="2d") == ["cdr_missing"]
    assert [row.session_id for row in watched.alerts()] == ["bare"]
    watched.cdr("d2", session_id="bare")
    assert watched.evaluate(watch_cdr_missing="2d") == []


def test_cdrs_in_conflict_are_one_alert_for_each_request_id(watched):
    for name, request_id in (("d1", "r1"), ("d2", "r1"), ("d3", "r1"), ("d4", "r2"), ("d5", None), ("d6", None)):
        watched.cdr(name, request_id)
    assert watched.evaluate() == watched.evaluate() == ["cdr_conflict"]
    assert "r1" in watched.alerts()[0].sentence
    watched.resolve()
    assert watched.evaluate() == []
    watched.cdr("d7", "r1")
    assert watched.evaluate() == ["cdr_conflict"]


def test_a_cdr_that_contradicts_itself_is_an_alert_until_it_is_read_anew(watched):
    watched.cdr("d1", "r1", notes=[CdrNote.NO_CURRENCY])
    assert watched.evaluate() == []
    watched.cdr("d2", "r2", notes=[CdrNote.NO_CURRENCY, CdrNote.ENDS_BEFORE_START, CdrNote.NEGATIVE_ENERGY])
    assert watched.evaluate() == watched.evaluate() == ["cdr_implausible"]
    (alert,) = watched.alerts()
    assert alert.sentence.startswith("CDR r2: ended_at is before started_at, energy_kwh is negative. It is counted")
    with watched.engine.begin() as ledger:
        ledger.execute(update(cdrs).values(notes=[CdrNote.NO_CURRENCY]))
    assert watched.evaluate() == []
    assert watched.alerts()[0].resolved_at is not None


def test_two_cdrs_of_one_session_are_one_alert(watched):
    watched.cdr("d1", "r1", session_id="s")
    watched.cdr("d2", "r2", session_id="t")
    assert watched.evaluate() == []
    watched.cdr("d3", "r3", session_id="s")
    assert watched.evaluate() == watched.evaluate() == ["cdr_implausible"]
    assert "Session s has several CDRs" in watched.alerts()[0].sentence
    with watched.engine.begin() as ledger:
        ledger.execute(update(cdrs).where(cdrs.c.delivery_id == "d3").values(session_id="u"))
    watched.evaluate()
    assert watched.alerts()[0].resolved_at is not None


def test_a_conflict_is_resolved_once_the_cdrs_say_the_same(watched):
    watched.cdr("d1", "r1")
    watched.cdr("d2", "r1")
    watched.evaluate()
    with watched.engine.begin() as ledger:
        ledger.execute(update(cdrs).values(content="the same"))
    watched.evaluate()
    assert watched.alerts()[0].resolved_at is not None


def test_of_many_cdrs_in_conflict_none_is_missed(watched, monkeypatch):
    monkeypatch.setattr("workers.ledger.alert_queries.MAX_FOUND", 5)
    monkeypatch.setattr("workers.alerts.rules.RESCAN", timedelta())
    for number in range(10):
        watched.cdr(f"a{number}", f"r{number}")
        watched.cdr(f"b{number}", f"r{number}")
    for _ in range(5):
        watched.evaluate()
    assert len(watched.alerts()) == 10


def test_unreadable_deliveries_are_one_alert_for_events_and_one_for_cdrs(watched):
    for number in range(3):
        watched.deliver(f"e{number}", HOUR, state=DeliveryState.UNREADABLE)
    watched.deliver("c", HOUR, kind="cdrs", state=DeliveryState.UNREADABLE)
    assert watched.evaluate() == watched.evaluate() == ["unreadable", "unreadable"]
    assert {row.sentence.partition(":")[0] for row in watched.alerts()} == {
        "3 events cannot be understood",
        "1 CDR cannot be understood",
    }
    watched.resolve()
    assert watched.evaluate() == []
    watched.deliver("one more", MINUTE, state=DeliveryState.UNREADABLE)
    assert watched.evaluate() == ["unreadable"]


def test_dead_letters_are_one_alert_for_each_handler_until_they_are_gone(watched):
    watched.die("d1", "warn")
    watched.die("d2", "warn")
    watched.die("d3", "bill")
    assert watched.evaluate() == watched.evaluate() == ["dead_letters", "dead_letters"]
    sentences = sorted(row.sentence for row in watched.alerts())
    assert sentences[1] == "In the handler warn 2 runs failed for good: `webhooks dead`."
    assert "a body" not in str(sentences)
    with watched.engine.begin() as ledger:
        ledger.execute(update(runs_table).where(runs_table.c.handler == "warn").values(outcome=Outcome.DONE))
    assert watched.evaluate() == ["dead_letters"]
    watched.resolve()
    assert watched.evaluate() == []
    watched.die("d4", "bill")
    assert watched.evaluate() == ["dead_letters"]


def test_a_downtime_is_an_alert_until_it_is_covered(watched):
    watched.downtime(HOUR, 10 * MINUTE)
    watched.downtime(2 * HOUR, timedelta(seconds=20))
    watched.downtime(3 * HOUR, DAY, inbox=ROUTINE)
    assert watched.evaluate() == watched.evaluate() == ["gap"]
    with watched.engine.begin() as ledger:
        ledger.execute(update(downtimes).values(covered_at=datetime.now(UTC)))
    assert watched.evaluate() == []


def test_silence_at_a_busy_time_is_an_alert_until_an_event_comes(watched):
    watched.deliver("first", 4 * WEEK)
    watched.busy(WEEK, 2 * WEEK, 3 * WEEK)
    watched.evaluate()
    assert watched.evaluate() == watched.evaluate() == ["silence"]
    assert "otherwise 10 or more in 1 h" in watched.alerts()[0].sentence
    watched.deliver("at last", timedelta())
    assert watched.evaluate() == []


def test_a_young_ledger_compares_with_every_day_of_a_week(watched):
    watched.deliver("first", 8 * DAY)
    watched.busy(*(number * DAY for number in range(1, 8)))
    watched.evaluate()
    assert watched.evaluate() == ["silence"]


@pytest.mark.parametrize(
    ("known_for", "busy", "count"),
    [
        pytest.param(6 * DAY, [number * DAY for number in range(1, 7)], 10, id="too little of a past"),
        pytest.param(4 * WEEK, [WEEK, 2 * WEEK], 10, id="a quiet week"),
        pytest.param(4 * WEEK, [WEEK, 2 * WEEK, 3 * WEEK], 9, id="never quite busy"),
        pytest.param(4 * WEEK, [each + 6 * HOUR for each in (WEEK, 2 * WEEK, 3 * WEEK)], 10, id="busy at other times"),
    ],
)
def test_silence_at_a_time_that_is_not_known_to_be_busy_is_no_alert(watched, known_for, busy, count):
    watched.deliver("first", known_for)
    watched.busy(*busy, count=count)
    watched.evaluate()
    assert watched.evaluate() == []


def test_silence_within_a_span_after_a_downtime_is_no_alert(watched):
    watched.deliver("first", 4 * WEEK)
    watched.busy(WEEK, 2 * WEEK, 3 * WEEK)
    watched.downtime(30 * MINUTE, 10 * HOUR)
    watched.evaluate()
    assert watched.evaluate() == ["gap"]


def test_a_sentence_is_one_line_without_markup(watched):
    watched.session("<!channel>\n`rm`" + "x" * 500, "STARTED", 25 * HOUR)
    watched.evaluate()
    (alert,) = watched.alerts()
    assert "\n" not in alert.sentence
    assert "<" not in alert.sentence
    assert len(alert.sentence) < 300
    assert json.dumps(alert.session_id)
