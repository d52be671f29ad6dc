"""The evaluator of alert rules: which rules it evaluates when, and what an error of one means."""

import sqlite3
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import event, text

from ingest.config.settings import load_settings
from workers.alerts import rules
from workers.alerts.alert_evaluator import SETTLED_AFTER, AlertEvaluator
from workers.alerts.alerts import AlertKind
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import LedgerNotMigrated, LedgerUnavailable

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WEEK = 7 * DAY


def test_a_setting_of_0_turns_a_rule_off(watched):
    watched.session("runs", "STARTED", 25 * HOUR)
    watched.session("over", "COMPLETE", 25 * HOUR)
    watched.downtime(HOUR, HOUR)
    assert watched.evaluate(watch_session_open="0", watch_gap="0", watch_silence="0") == []


def test_silence_is_not_raised_by_a_clock_that_has_just_started(watched):
    watched.deliver("first", 4 * WEEK)
    watched.busy(WEEK, 2 * WEEK, 3 * WEEK)
    seconds = iter([0.0, SETTLED_AFTER.total_seconds() - 1, SETTLED_AFTER.total_seconds() + 60])
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
    engine = create_ledger_engine(database_url, creates_file=True)
    evaluator = AlertEvaluator(engine, load_settings(), clock=iter(range(10)).__next__)

    driver = sqlite3 if engine.dialect.name == "sqlite" else psycopg

    def away(*_):
        raise driver.OperationalError("the values of a statement")

    event.listen(engine, "do_connect", away)
    with pytest.raises(LedgerUnavailable, match=r"OperationalError$"):
        evaluator.run()
    assert evaluated == []
    engine.dispose()
