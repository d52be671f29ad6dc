"""Bad input: its responses are those promised, signed bodies are kept, other clients are served, the log is clean."""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from ingest.wire.envelope import Kind
from tests.faults.bad_input import MAX_GROWTH_MIB, MAX_P99_S, Findings, Row, ServeProcess, examine, post, unclean
from tests.faults.documents import HOSTILE, Shape, documents
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.database.migrate import migrate
from workers.ledger.deliveries import DeliveryFilters, find
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables.core_tables import deliveries

WEBHOOKS = str(Path(sys.executable).with_name("webhooks"))


@pytest.fixture(scope="module")
def findings():
    return examine(slow=100)


def test_each_document_has_the_shape_that_it_is_labelled_with():
    """By Python's parser, but for disputed documents, where it is more lenient than the grammar."""
    found = Counter(document.shape for document in documents())
    assert sum(found.values()) > 600
    assert min(found.values()) > 60
    for document in documents():
        try:
            json.loads(document.body, strict=True)
            is_parsed = True
        except ValueError as error:
            is_parsed = "Exceeds the limit" in str(error)  # for integers with more digits than Python converts
        except RecursionError:
            is_parsed = document.shape is Shape.VALID
        assert document.shape is Shape.DISPUTED or is_parsed is (document.shape is Shape.VALID), document.name


def test_every_input_gets_the_response_that_is_promised(findings):
    assert [wrong for row in findings.rows for wrong in row.wrong] == []
    answers = {answer for row in findings.rows for answer in re.findall(r"\d{3}|closed", row.answer)}
    assert answers == {"200", "400", "403", "404", "405", "408", "413", "415", "100", "closed"}  # `100 × 200`


def test_every_well_signed_body_is_kept_as_it_was_sent(findings):
    assert findings.not_kept == []


def test_other_clients_are_served_in_time_meanwhile(findings):
    assert findings.failures == []
    assert 0 < findings.p99 < MAX_P99_S


def test_senders_of_one_byte_a_second_are_disconnected(findings):
    slow = {row.answer: row.count for row in findings.rows if row.family == "one byte a second"}
    assert slow == {"408 in the body": 50, "closed in the head": 50}


def test_the_process_does_not_grow(findings):
    assert findings.mib_after < findings.mib_before + MAX_GROWTH_MIB


def test_the_log_has_few_lines_and_none_with_a_traceback_or_what_was_sent(findings):
    lines = [json.loads(line) for line in findings.log_lines]
    assert len(lines) < findings.inputs / 4
    assert [line for line in lines if line["level"] not in {"info", "warning"}] == []
    assert [line for line in lines if {"exception", "stack"} & line.keys()] == []
    assert unclean(findings.log_lines) == []


def test_each_broken_promise_is_a_finding():
    assert Findings(p99=0.1).is_well
    for broken in (
        Findings(p99=0.1, not_kept=["a document"]),
        Findings(p99=0.1, failures=["HTTP/1.1 503"]),
        Findings(p99=0.1, mib_after=MAX_GROWTH_MIB + 1),
        Findings(p99=0.1, rows=[Row("head", "500", 1, ("a NUL",), ("a NUL: 400 was expected",))]),
        Findings(p99=MAX_P99_S),
        Findings(),  # no other client has sent anything
    ):
        assert len(broken.wrong) == 1


@pytest.mark.parametrize("name", [name for name, text in HOSTILE.items() if len(text) > 3])
def test_a_log_line_with_a_hostile_text_is_unclean(name):
    clean = json.dumps({"event": "delivery.rejected", "reason": "the signature is wrong"})
    dirty = json.dumps({"event": "delivery.rejected", "more": {"header": [f"it was {HOSTILE[name]}"]}})
    assert unclean([clean, dirty]) == [dirty]


def test_a_log_line_with_control_characters_is_unclean():
    line = '{"event": "\x1b[31m\x07"}'
    assert unclean([line]) == [line]


def is_any_open(database_url: str) -> bool:
    """Return whether a run of a delivery in the ledger is still to come."""
    engine = create_ledger_engine(database_url)
    with read_only(engine) as conn:
        is_open = conn.scalar(select(deliveries.c.id).where(deliveries.c.settled_at.is_(None)).limit(1))
    engine.dispose()
    return is_open is not None


def test_every_document_is_settled_or_marked_unreadable(tmp_path, valkey_url, postgres_url):
    """In PostgreSQL, which accepts fewer texts than SQLite."""
    migrate(postgres_url)
    sent = [(document, kind) for document in documents() for kind in Kind]
    settings = {"REDIS_URL": valkey_url, "DATABASE_URL": postgres_url}
    with ServeProcess(tmp_path, **settings) as endpoint:
        assert {status for *_, status in post(endpoint.port, sent)} == {200}
        with (tmp_path / "work.log").open("w") as log:
            command = [WEBHOOKS, "work"]
            worker = subprocess.Popen(command, env=endpoint.environment, cwd=tmp_path, stderr=log, stdout=log)
        try:
            until = time.monotonic() + 120
            # What takes long leaves the inbox with runs that are still to come, in the background.
            while any(endpoint.bodies(kind) for kind in Kind) or is_any_open(postgres_url):
                assert worker.poll() is None, (tmp_path / "work.log").read_text()
                assert time.monotonic() < until, "not all of it was settled"
                time.sleep(0.2)
        finally:
            worker.terminate()
            worker.wait(60)
    assert "Traceback" not in (tmp_path / "work.log").read_text()
    engine = create_ledger_engine(postgres_url)
    with read_only(engine) as conn:
        rows = find(conn, DeliveryFilters(), None)
    engine.dispose()

    assert len(rows) == len(sent)
    states = Counter((row.kind, row.state) for row in rows)
    assert {state for _, state in states} == {DeliveryState.SETTLED, DeliveryState.UNREADABLE}
    assert not [run for row in rows for run in row.runs if run.outcome is Outcome.DEAD]
    unreadable = {
        kind: sum(count for (its, state), count in states.items() if its == kind and state == "unreadable")
        for kind in Kind
    }
    # Session events are no CDRs, so more is unreadable there.
    assert 200 < unreadable[Kind.EVENTS] < unreadable[Kind.CDRS] < len(sent) / len(Kind) - 50, unreadable
