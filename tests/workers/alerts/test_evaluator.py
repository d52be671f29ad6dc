"""The watchdog: one alert for each cause, none for what is as it should be."""

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
from workers.ledger.runs import NewRun
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.core import runs as runs_table
from workers.ledger.tables.core import sessions
from workers.ledger.tables.reconciliation import ROUTINE, downtimes

NOW = datetime.now(UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WEEK = 7 * DAY


@dataclass
class Watched:
    """A ledger, and the watchdog that looks into it."""

    engine: Engine
    moment: float = 1000.0
    dogs: dict[str, AlertEvaluator] = field(default_factory=dict)

    def look(self, **settings: Any) -> list[str]:
        """Look once, and name the kinds of the alerts that are open then."""
        dog = self.dogs.get(str(settings))
        if dog is None:
            dog = self.dogs[str(settings)] = AlertEvaluator(
                self.engine, load_settings(**settings), clock=lambda: self.moment
            )
        self.moment += 3600
        dog.run()
        return [row.kind.value for row in self.alerts() if row.resolved_at is None]

    def alerts(self) -> list[AlertRow]:
        with self.engine.begin() as ledger:
            return find_alerts(ledger)

    def resolve(self) -> None:
        with self.engine.begin() as ledger:
            resolve_by_id(ledger, [row.id for row in find_alerts(ledger)], datetime.now(UTC))

    def session(self, name: str, status: str, started: timedelta, *, known: timedelta | None = None) -> None:
        """Put a session as it is after it started so long ago; it was heard of last `known` ago."""
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

    def becomes(self, name: str, status: str) -> None:
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
        """Let so many events have come in the half hour before each of these times."""
        for at in ago:
            for number in range(count):
                self.deliver(f"{at}-{number}", at + number * timedelta(minutes=3))

    def die(self, name: str, handler: str) -> None:
        self.deliver(name, HOUR, state=DeliveryState.RUNNING)
        dead = NewRun(
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

    def close_door(self, ago: timedelta, length: timedelta, inbox: str = "here") -> None:
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
def watched(database_url: str) -> Iterator[Watched]:
    engine = create_ledger_engine(database_url)
    metadata.create_all(engine)
    yield Watched(engine)
    engine.dispose()


def test_a_session_that_does_not_end_is_one_alert_until_it_does(watched):
    watched.session("runs", "STARTED", 25 * HOUR)
    watched.session("fails to stop", "STOP_FAILED", 25 * HOUR)
    watched.session("new", "STARTED", 23 * HOUR)
    watched.session("over", "COMPLETE", 25 * HOUR)
    watched.session("of old", "STARTED", 30 * DAY)
    assert watched.look() == watched.look() == ["session_open"] * 2
    assert {row.session_id for row in watched.alerts()} == {"runs", "fails to stop"}
    watched.becomes("runs", "COMPLETE")
    with capture_logs() as lines:
        assert watched.look() == ["session_open"]
    assert [(line["event"], line["count"]) for line in lines] == [("alerts.resolved", 1)]
    watched.becomes("runs", "STARTED")
    assert watched.look() == ["session_open"] * 2


def test_a_session_that_somebody_has_seen_is_not_raised_again_while_nothing_is_new(watched):
    watched.session("runs", "STARTED", 25 * HOUR)
    watched.look()
    watched.resolve()
    assert watched.look() == []


def test_a_setting_of_0_turns_a_rule_off(watched):
    watched.session("runs", "STARTED", 25 * HOUR)
    watched.session("over", "COMPLETE", 25 * HOUR)
    watched.close_door(HOUR, HOUR)
    assert watched.look(watch_session_open="0", watch_gap="0", watch_silence="0") == []


def test_a_complete_session_without_a_cdr_is_an_alert_where_cdrs_are_expected(watched):
    for name in ("bare", "billed"):
        watched.session(name, "COMPLETE", 3 * DAY)
    watched.session("just heard of", "COMPLETE", 3 * DAY, known=HOUR)
    watched.session("stopped", "STOPPED", 3 * DAY)
    watched.cdr("d1", session_id="billed")
    assert watched.look() == []
    assert watched.look(watch_cdr_missing="2d") == ["cdr_missing"]
    assert [row.session_id for row in watched.alerts()] == ["bare"]
    watched.cdr("d2", session_id="bare")
    assert watched.look(watch_cdr_missing="2d") == []


def test_cdrs_in_conflict_are_one_alert_for_each_request_id(watched):
    for name, request_id in (("d1", "r1"), ("d2", "r1"), ("d3", "r1"), ("d4", "r2"), ("d5", None), ("d6", None)):
        watched.cdr(name, request_id)
    assert watched.look() == watched.look() == ["cdr_conflict"]
    assert "r1" in watched.alerts()[0].sentence
    watched.resolve()
    assert watched.look() == []
    watched.cdr("d7", "r1")
    assert watched.look() == ["cdr_conflict"]


def test_of_many_cdrs_in_conflict_none_is_passed_over(watched, monkeypatch):
    monkeypatch.setattr("workers.ledger.stale_sessions.MOST", 5)
    monkeypatch.setattr("workers.alerts.rules.RESCAN", timedelta())
    for number in range(10):
        watched.cdr(f"a{number}", f"r{number}")
        watched.cdr(f"b{number}", f"r{number}")
    for _ in range(5):
        watched.look()
    assert len(watched.alerts()) == 10


def test_what_cannot_be_understood_is_one_alert_for_events_and_one_for_cdrs(watched):
    for number in range(3):
        watched.deliver(f"e{number}", HOUR, state=DeliveryState.UNREADABLE)
    watched.deliver("c", HOUR, kind="cdrs", state=DeliveryState.UNREADABLE)
    assert watched.look() == watched.look() == ["unreadable", "unreadable"]
    assert {row.sentence.partition(":")[0] for row in watched.alerts()} == {
        "3 events cannot be understood",
        "1 CDR cannot be understood",
    }
    watched.resolve()
    assert watched.look() == []
    watched.deliver("one more", MINUTE, state=DeliveryState.UNREADABLE)
    assert watched.look() == ["unreadable"]


def test_dead_letters_are_one_alert_for_each_handler_until_they_are_gone(watched):
    watched.die("d1", "warn")
    watched.die("d2", "warn")
    watched.die("d3", "bill")
    assert watched.look() == watched.look() == ["dead_letters", "dead_letters"]
    sentences = sorted(row.sentence for row in watched.alerts())
    assert sentences[1] == "In the handler warn 2 runs failed for good: `webhooks dead`."
    assert "a body" not in str(sentences)
    with watched.engine.begin() as ledger:
        ledger.execute(update(runs_table).where(runs_table.c.handler == "warn").values(outcome=Outcome.DONE))
    assert watched.look() == ["dead_letters"]
    watched.resolve()
    assert watched.look() == []
    watched.die("d4", "bill")
    assert watched.look() == ["dead_letters"]


def test_a_door_that_was_closed_is_an_alert_until_the_gap_is_covered(watched):
    watched.close_door(HOUR, 10 * MINUTE)
    watched.close_door(2 * HOUR, timedelta(seconds=20))
    watched.close_door(3 * HOUR, DAY, inbox=ROUTINE)
    assert watched.look() == watched.look() == ["gap"]
    with watched.engine.begin() as ledger:
        ledger.execute(update(downtimes).values(covered_at=datetime.now(UTC)))
    assert watched.look() == []


def test_silence_at_a_busy_time_is_an_alert_until_an_event_comes(watched):
    watched.deliver("first", 4 * WEEK)
    watched.busy(WEEK, 2 * WEEK, 3 * WEEK)
    watched.look()
    assert watched.look() == watched.look() == ["silence"]
    assert "otherwise 10 or more in 1 h" in watched.alerts()[0].sentence
    watched.deliver("at last", timedelta())
    assert watched.look() == []


def test_a_young_ledger_knows_a_busy_time_by_every_day_of_a_week(watched):
    watched.deliver("first", 8 * DAY)
    watched.busy(*(number * DAY for number in range(1, 8)))
    watched.look()
    assert watched.look() == ["silence"]


@pytest.mark.parametrize(
    ("known_for", "busy", "count"),
    [
        pytest.param(6 * DAY, [number * DAY for number in range(1, 7)], 10, id="too little of a past"),
        pytest.param(4 * WEEK, [WEEK, 2 * WEEK], 10, id="a quiet week"),
        pytest.param(4 * WEEK, [WEEK, 2 * WEEK, 3 * WEEK], 9, id="never quite busy"),
        pytest.param(4 * WEEK, [each + 6 * HOUR for each in (WEEK, 2 * WEEK, 3 * WEEK)], 10, id="busy at other times"),
    ],
)
def test_silence_at_a_time_that_is_not_known_to_be_busy_is_none(watched, known_for, busy, count):
    watched.deliver("first", known_for)
    watched.busy(*busy, count=count)
    watched.look()
    assert watched.look() == []


def test_silence_is_not_plugsurfings_while_the_door_has_not_been_open_for_as_long(watched):
    watched.deliver("first", 4 * WEEK)
    watched.busy(WEEK, 2 * WEEK, 3 * WEEK)
    watched.close_door(30 * MINUTE, 10 * HOUR)
    watched.look()
    assert watched.look() == ["gap"]


def test_silence_is_not_told_by_a_clock_that_has_only_just_begun_or_had_trouble(watched):
    watched.deliver("first", 4 * WEEK)
    watched.busy(WEEK, 2 * WEEK, 3 * WEEK)
    seconds = iter([0.0, SETTLED_AFTER.total_seconds() - 1, SETTLED_AFTER.total_seconds() + 1])
    moment = 0.0
    dog = AlertEvaluator(watched.engine, load_settings(), clock=lambda: moment)
    for moment in seconds:  # noqa: B007 - the watchdog reads it
        assert watched.alerts() == []
        dog.run()
    assert [row.kind for row in watched.alerts()] == [AlertKind.SILENCE]


def test_a_rule_that_fails_keeps_no_other_from_looking_and_its_failure_is_told(watched, monkeypatch):
    def fails(ledger, _at):
        ledger.execute(text("SELECT nothing FROM nowhere"))

    monkeypatch.setattr(rules, "unreadable", fails)
    monkeypatch.setattr(rules, "dead_letters", lambda *_: 1 / 0)
    watched.session("runs", "STARTED", 25 * HOUR)
    watched.deliver("first", 4 * WEEK)
    watched.busy(WEEK, 2 * WEEK, 3 * WEEK)
    for _ in range(2):  # and silence is told, though there is trouble all the time: it is not the ledger's
        with pytest.raises(LedgerNotMigrated):
            watched.look()
    assert {row.kind for row in watched.alerts()} == {AlertKind.SESSION_OPEN, AlertKind.SILENCE}


def test_where_the_ledger_is_away_no_rule_is_waited_for(database_url, monkeypatch):
    looked = []
    monkeypatch.setattr(rules, "dead_letters", lambda *_: looked.append("dead letters") or rules.RuleResult())
    engine = create_ledger_engine(database_url)
    dog = AlertEvaluator(engine, load_settings(), clock=iter(range(10)).__next__)

    driver = sqlite3 if engine.dialect.name == "sqlite" else psycopg

    def away(*_):
        raise driver.OperationalError("the values of a statement")

    event.listen(engine, "do_connect", away)
    with pytest.raises(LedgerUnavailable, match=r"OperationalError$"):
        dog.run()
    assert looked == []
    engine.dispose()


def test_a_sentence_is_one_line_that_no_program_obeys(watched):
    watched.session("<!channel>\n`rm`" + "x" * 500, "STARTED", 25 * HOUR)
    watched.look()
    (alert,) = watched.alerts()
    assert "\n" not in alert.sentence
    assert "<" not in alert.sentence
    assert len(alert.sentence) < 300
    assert json.dumps(alert.session_id)
