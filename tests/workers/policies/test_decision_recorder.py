"""The recorder of decisions: after the answer, in a thread of its own."""

from datetime import timedelta
from uuid import uuid4

import pytest
import structlog
from sqlalchemy import text

from handlers.kit.testing import DEFAULT_NOW, authorization_request
from ingest.authorize.decision_record import DecisionRecord, FallbackReason
from ingest.wire.authorization.request import Allowed, Decision
from workers.ledger import authorizations
from workers.ledger.authorizations import DecisionFilter
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.tables import metadata
from workers.policies import decision_recorder
from workers.policies.decision_recorder import BufferedDecisionRecorder


def verdict(**parts):
    usual = {
        "id": uuid4().hex,
        "request": authorization_request(key="04:A1", session_id="s1"),
        "decision": Decision(Allowed.BLOCKED, reason="disabled"),
        "policy": "key_list",
        "failure": None,
        "answered_at": DEFAULT_NOW + timedelta(milliseconds=4),
        "latency": timedelta(milliseconds=4),
    }
    return DecisionRecord(**{**usual, **parts})


def kept(ledger):
    with ledger.begin() as conn:
        return authorizations.find(conn, DecisionFilter())


def test_everything_that_was_recorded_is_kept_when_it_ends(ledger):
    recorder = BufferedDecisionRecorder(ledger)
    recorder.start()
    told = [verdict() for _ in range(1200)]
    for each in told:
        recorder.record(each)
    recorder.stop()
    assert {row.id for row in kept(ledger)} == {each.id for each in told}


def test_a_verdict_is_kept_with_all_that_is_known_of_it(ledger):
    recorder = BufferedDecisionRecorder(ledger)
    recorder.start()
    recorder.record(verdict(failure=FallbackReason.TIMEOUT, repeats="an id", decision=Decision(Allowed.ALLOWED)))
    recorder.stop()
    (row,) = kept(ledger)
    assert (row.at, row.form, row.decision, row.policy) == (DEFAULT_NOW, "plugsurfing", "ALLOWED", "key_list")
    assert (row.reason, row.failure, row.repeated) == (None, "late", True)
    assert (row.key, row.session_id, row.latency_us) == ("04a1", "s1", 4000)


def test_while_the_ledger_is_away_verdicts_wait_and_what_has_no_room_is_counted(tmp_path, monkeypatch, until):
    monkeypatch.setattr(decision_recorder, "WRITE_TIMEOUT", 0.01)
    monkeypatch.setattr(decision_recorder, "PAUSE", timedelta(milliseconds=10))
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    recorder = BufferedDecisionRecorder(engine, max_buffered=3)
    with structlog.testing.capture_logs() as logs:
        recorder.start()
        for _ in range(5):
            recorder.record(verdict())
        until(lambda: {"decisions.buffered", "decisions.dropped"} <= {line["event"] for line in logs})
        metadata.create_all(engine)
        until(lambda: "decisions.recovered" in {line["event"] for line in logs})
        recorder.stop()
    assert sum(line["count"] for line in logs if line["event"] == "decisions.dropped") == 2
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT count(*) FROM authorizations")) == 3
    engine.dispose()


@pytest.mark.parametrize("starts", [True, False])
def test_what_cannot_be_kept_at_the_end_is_counted(tmp_path, monkeypatch, starts):
    monkeypatch.setattr(decision_recorder, "WRITE_TIMEOUT", 0.01)
    recorder = BufferedDecisionRecorder(create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}"))
    with structlog.testing.capture_logs() as logs:
        if starts:
            recorder.start()
        recorder.record(verdict())
        recorder.stop()
    assert [line["count"] for line in logs if line["event"] == "decisions.dropped"] == [1]


def test_nothing_personal_is_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(decision_recorder, "WRITE_TIMEOUT", 0.01)
    recorder = BufferedDecisionRecorder(create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}"))
    with structlog.testing.capture_logs() as logs:
        recorder.start()
        recorder.record(verdict())
        recorder.stop()
    assert logs
    assert "04a1" not in str(logs).lower().replace(":", "")
