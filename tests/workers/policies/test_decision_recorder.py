"""The recorder of decisions: it writes after the response, in a thread."""

from datetime import timedelta
from uuid import uuid4

import pytest
import structlog
from sqlalchemy import text

from handlers.kit.testing import DEFAULT_NOW, authorization_request
from ingest.authorize.decisions import DecisionRecord, FallbackReason
from ingest.wire.authorization.request import Allowed, Decision
from workers.ledger import authorizations
from workers.ledger.authorizations import DecisionFilter
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.tables import metadata
from workers.policies import decision_recorder
from workers.policies.decision_recorder import BufferedDecisionRecorder


def decision_record(**parts):
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


def stored(ledger):
    with ledger.begin() as conn:
        return authorizations.find(conn, DecisionFilter())


def test_every_record_is_stored_before_stop_returns(ledger):
    recorder = BufferedDecisionRecorder(ledger)
    recorder.start()
    records = [decision_record() for _ in range(1200)]
    for each in records:
        recorder.record(each)
    recorder.stop()
    assert {row.id for row in stored(ledger)} == {each.id for each in records}


def test_a_record_is_stored_with_all_of_its_fields(ledger):
    recorder = BufferedDecisionRecorder(ledger)
    recorder.start()
    recorder.record(
        decision_record(failure=FallbackReason.TIMEOUT, repeats="an id", decision=Decision(Allowed.ALLOWED))
    )
    recorder.stop()
    (row,) = stored(ledger)
    assert (row.at, row.form, row.decision, row.policy) == (DEFAULT_NOW, "plugsurfing", "ALLOWED", "key_list")
    assert (row.reason, row.failure, row.repeated) == (None, "late", True)
    assert (row.key, row.session_id, row.latency_us) == ("04a1", "s1", 4000)


def test_while_the_ledger_is_unavailable_records_are_buffered_and_then_dropped(tmp_path, monkeypatch, until):
    monkeypatch.setattr(decision_recorder, "WRITE_TIMEOUT", 0.01)
    monkeypatch.setattr(decision_recorder, "PAUSE", timedelta(milliseconds=10))
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = create_ledger_engine(url)
    recorder = BufferedDecisionRecorder(engine, max_buffered=3)
    with structlog.testing.capture_logs() as logs:
        recorder.start()
        for _ in range(5):
            recorder.record(decision_record())
        until(lambda: {"decisions.buffered", "decisions.dropped"} <= {line["event"] for line in logs})
        metadata.create_all(create_ledger_engine(url, creates_file=True))
        until(lambda: "decisions.recovered" in {line["event"] for line in logs})
        recorder.stop()
    assert sum(line["count"] for line in logs if line["event"] == "decisions.dropped") == 2
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT count(*) FROM authorizations")) == 3
    engine.dispose()


@pytest.mark.parametrize("starts", [True, False])
def test_records_that_cannot_be_stored_at_the_end_are_counted(tmp_path, monkeypatch, starts):
    monkeypatch.setattr(decision_recorder, "WRITE_TIMEOUT", 0.01)
    recorder = BufferedDecisionRecorder(create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}"))
    with structlog.testing.capture_logs() as logs:
        if starts:
            recorder.start()
        recorder.record(decision_record())
        recorder.stop()
    assert [line["count"] for line in logs if line["event"] == "decisions.dropped"] == [1]


def test_nothing_personal_is_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(decision_recorder, "WRITE_TIMEOUT", 0.01)
    recorder = BufferedDecisionRecorder(create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}"))
    with structlog.testing.capture_logs() as logs:
        recorder.start()
        recorder.record(decision_record())
        recorder.stop()
    assert logs
    assert "04a1" not in str(logs).lower().replace(":", "")


def test_a_batch_that_the_ledger_rejects_is_dropped_and_the_next_is_stored(ledger, monkeypatch, until):
    monkeypatch.setattr(decision_recorder, "BATCH_SIZE", 1)
    recorder = BufferedDecisionRecorder(ledger)
    rejected, accepted = decision_record(policy="too odd"), decision_record()
    insert = authorizations.insert

    def picky(conn, rows):
        if any(row.policy == "too odd" for row in rows):
            raise ValueError("the text of an error may name the driver")
        insert(conn, rows)

    monkeypatch.setattr(authorizations, "insert", picky)
    with structlog.testing.capture_logs() as logs:
        recorder.record(rejected)
        recorder.record(accepted)
        recorder.start()
        until(lambda: stored(ledger))
        recorder.stop()
    assert [row.id for row in stored(ledger)] == [accepted.id]
    assert [line["reason"] for line in logs if line["event"] == "decisions.rejected"] == ["ValueError"]
    assert [line["count"] for line in logs if line["event"] == "decisions.dropped"] == [1]
    assert "name the driver" not in str(logs)
