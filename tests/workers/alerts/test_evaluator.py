"""The alert rules: one alert for each cause, none where all is well."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, insert, text, update
from structlog.testing import capture_logs

from handlers.kit.cdr_table import cdrs
from ingest.config.settings import load_settings
from ingest.queue.batch import Delivery
from workers.alerts import rules
from workers.alerts.alerts import AlertKind, AlertRow, find_alerts, resolve_by_id
from workers.alerts.evaluator import SETTLED_AFTER, AlertEvaluator
from workers.ledger import deliveries, delivery_states, runs
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import LedgerNotMigrated, LedgerUnavailable
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.core import runs as runs_table
from workers.ledger.tables.core import sessions
from workers.ledger.tables.reconciliation import ROUTINE, downtimes

NOW = datetime.now(UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WEEK = 7 * DAY


@dataclass
class WatchedLedger:
    """A ledger, and the evaluator of its alert rules."""

    engine: Engine
    moment: float = 1000.0
    evaluators: dict[str, AlertEvaluator] = field(default_factory=dict)

    def evaluate(self, **settings: Any) -> list[str]:
        """Evaluate once, and return the kinds of the alerts that are open then."""
        evaluator = self.evaluators.get(str(settings))
        if evaluator is None:
            evaluator = self.evaluators[str(settings)] = AlertEvaluator(
                self.engine, load_settings(**settings), clock=lambda: self.moment
            )
        self.moment += 3600
        evaluator.run()
        return [row.kind.value for row in self.alerts() if row.resolved_at is None]

    def alerts(self) -> list[AlertRow]:
        with self.engine.begin() as ledger:
            return find_alerts(ledger)

    def resolve(self) -> None:
        with self.engine.begin() as ledger:
            resolve_by_id(ledger, [row.id for row in find_alerts(ledger)], datetime.now(UTC))

    def session(self, name: str, status: str, started: timedelta, *, known: timedelta | None = None) -> None:
        """Insert a session that started so long ago, and was updated last `known` ago."""
        at = NOW - started
        values = {
            "session_id": name,
            "status": status,
            "started_at": at,
            "completed_at": at if status == "COMPLETE" else None,
            "anomalies": [],
            "facts": {},
            "updated_at": NOW - (started if known is None else known),
        }
        with self.engine.begin() as ledger:
            ledger.execute(insert(sessions).values(values))

    def set_status(self, name: str, status: str) -> None:
        with self.engine.begin() as ledger:
            this = update(sessions).where(sessions.c.session_id == name)
            ledger.execute(this.values(status=status, updated_at=datetime.now(UTC)))

    def cdr(self, name: str, request_id: str | None = None, session_id: str | None = None) -> None:
        values = {
            "delivery_id": name,
            "request_id": request_id,
            "session_id": session_id,
            "notes": [],
            "document": "{}",
            "received_at": NOW,
            "recorded_at": datetime.now(UTC),
        }
        with self.engine.begin() as ledger:
            ledger.execute(insert(cdrs).values(values))

    def deliver(
        self, name: str, ago: timedelta, *, kind: str = "events", state: DeliveryState = DeliveryState.SETTLED
    ) -> None:
        one = Delivery(name, kind, None, None, NOW - ago, "current", None, {}, b"{}", 1, "here")
        with self.engine.begin() as ledger:
            deliveries.store(ledger, [one], {name: (state, None)})

    def busy(self, *ago: timedelta, count: int = 10) -> None:
        """Insert so many events in the half hour before each of these times."""
        for at in ago:
            for number in range(count):
                self.deliver(f"{at}-{number}", at + number * timedelta(minutes=3))

    def die(self, name: str, handler: str) -> None:
        self.deliver(name, HOUR, state=DeliveryState.RUNNING)
        dead = RunRecord(
            delivery_id=name,
            handler=handler,
            queue="other",
            outcome=Outcome.DEAD,
            attempts=3,
            error="KeyError: 'a body'",
            finished_at=datetime.now(UTC),
        )
        with self.engine.begin() as ledger:
            runs.insert_runs(ledger, [dead])
            delivery_states.refresh_states(ledger, [name])

    def downtime(self, ago: timedelta, length: timedelta, inbox: str = "here") -> None:
        values = {
            "inbox": inbox,
            "closed_at": NOW - ago - length,
            "opened_at": NOW - ago,
            "noticed_at": NOW - ago,
            "sessions_read": 0,
            "users_failed": 0,
        }
        with self.engine.begin() as ledger:
            ledger.execute(insert(downtimes).values(values))


@pytest.fixture
def watched(database_url: str) -> Iterator[WatchedLedger]:
    engine = create_ledger_engine(database_url)
    metadata.create_all(engine)
    yield WatchedLedger(engine)
    engine.dispose()


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


def test_a_setting_of_0_turns_a_rule_off(watched):
    watched.session("runs", "STARTED", 25 * HOUR)
    watched.session("over", "COMPLETE", 25 * HOUR)
    watched.downtime(HOUR, HOUR)
    assert watched.evaluate(watch_session_open="0", watch_gap="0", watch_silence="0") == []


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


def test_silence_is_not_raised_by_a_clock_that_has_just_started(watched):
    watched.deliver("first", 4 * WEEK)
    watched.busy(WEEK, 2 * WEEK, 3 * WEEK)
    seconds = iter([0.0, SETTLED_AFTER.total_seconds() - 1, SETTLED_AFTER.total_seconds() + 1])
    moment = 0.0
    evaluator = AlertEvaluator(watched.engine, load_settings(), clock=lambda: moment)
    for moment in seconds:  # noqa: B007 - the evaluator reads it
        assert watched.alerts() == []
        evaluator.run()
    assert [row.kind for row in watched.alerts()] == [AlertKind.SILENCE]


def test_a_rule_that_fails_does_not_stop_the_others_and_its_error_is_raised(watched, monkeypatch):
    def fails(ledger, _at):
        ledger.execute(text("SELECT nothing FROM nowhere"))

    monkeypatch.setattr(rules, "unreadable", fails)
    monkeypatch.setattr(rules, "dead_letters", lambda *_: 1 / 0)
    watched.session("runs", "STARTED", 25 * HOUR)
    watched.deliver("first", 4 * WEEK)
    watched.busy(WEEK, 2 * WEEK, 3 * WEEK)
    for _ in range(2):  # and silence is raised: the trouble is not the ledger's
        with pytest.raises(LedgerNotMigrated):
            watched.evaluate()
    assert {row.kind for row in watched.alerts()} == {AlertKind.SESSION_OPEN, AlertKind.SILENCE}


def test_while_the_ledger_is_unavailable_no_further_rule_is_evaluated(database_url, monkeypatch):
    evaluated = []
    monkeypatch.setattr(rules, "dead_letters", lambda *_: evaluated.append("dead letters") or rules.RuleResult())
    engine = create_ledger_engine(database_url)
    evaluator = AlertEvaluator(engine, load_settings(), clock=iter(range(10)).__next__)

    driver = sqlite3 if engine.dialect.name == "sqlite" else psycopg

    def away(*_):
        raise driver.OperationalError("the values of a statement")

    event.listen(engine, "do_connect", away)
    with pytest.raises(LedgerUnavailable, match=r"OperationalError$"):
        evaluator.run()
    assert evaluated == []
    engine.dispose()


def test_a_sentence_is_one_line_without_markup(watched):
    watched.session("<!channel>\n`rm`" + "x" * 500, "STARTED", 25 * HOUR)
    watched.evaluate()
    (alert,) = watched.alerts()
    assert "\n" not in alert.sentence
    assert "<" not in alert.sentence
    assert len(alert.sentence) < 300
    assert json.dumps(alert.session_id)
