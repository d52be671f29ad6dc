"""`webhooks alerts`: the list, what has been seen, and a test of who is told."""

from datetime import UTC, datetime, timedelta

import pytest

from workers.alerts.alerts import Alert, AlertKind, raise_alert

URL = "json://127.0.0.1:1/a-secret-token"


@pytest.fixture
def told(any_node):
    """A node with two alerts."""
    now = datetime.now(UTC)
    with any_node.engine.begin() as ledger:
        raise_alert(ledger, Alert(AlertKind.SILENCE, "events", "It is quiet."), now - timedelta(hours=2))
        alert = Alert(AlertKind.CDR_CONFLICT, "r1", "Two say different things.", session_id="s1", delivery_id="d1")
        raise_alert(ledger, alert, now)
    return any_node


def test_alerts_are_listed_newest_first(told):
    newest, _ = rows = told.rows("alerts")
    assert [row["kind"] for row in rows] == ["cdr_conflict", "silence"]
    assert {name: newest[name] for name in ("subject", "sentence", "session_id", "delivery_id", "resolved_at")} == {
        "subject": "r1",
        "sentence": "Two say different things.",
        "session_id": "s1",
        "delivery_id": "d1",
        "resolved_at": None,
    }
    assert newest["raised_at"].endswith("Z")
    assert "open, not sent" in told.run("alerts").stdout


def test_a_list_has_what_is_asked_for(told):
    assert [row["kind"] for row in told.rows("alerts", "--kind", "silence")] == ["silence"]
    assert [row["kind"] for row in told.rows("alerts", "--since", "1h")] == ["cdr_conflict"]
    assert len(told.run("alerts", "--limit", "1").stdout.splitlines()) == 2


def test_a_resolved_alert_is_not_open_any_more(told):
    conflict, silence = (row["id"] for row in told.rows("alerts"))
    assert told.run("alerts", "resolve", conflict).stdout == "It is resolved.\n"
    assert [row["id"] for row in told.rows("alerts", "--open")] == [silence]
    assert "Only 1 of these were open" in told.run("alerts", "resolve", conflict, silence, code=1).output
    assert "None." in told.run("alerts", "--open").stdout


def test_a_test_needs_somebody_to_tell(node):
    assert "ALERT_URLS is not set" in node.run("alerts", "test", code=2).output


def test_a_test_says_what_came_of_it(node, provider):
    good = provider.url.replace("http://", "json://")
    assert ": accepted" in node.run("alerts", "test", ALERT_URLS=good).stdout
    assert "This is a test" in provider.bodies[0]["message"]
    result = node.run("alerts", "test", code=1, ALERT_URLS=f"{good} {URL}")
    assert ": accepted" in result.stdout
    assert "it was not accepted. A Connection error" in result.stdout
    assert "1 of 2 did not take it" in result.output
    assert "a-secret-token" not in result.output


def test_check_says_where_alerts_go(node):
    assert "to the log only" in node.run("check", code=1).stdout
    assert "to the log and to json, except gap" in node.run("check", code=1, ALERT_URLS=URL, ALERT_MUTED="gap").stdout
    assert "number 1 is not a URL" in node.run("check", code=1, ALERT_URLS="nonsense").stdout


def test_a_clock_that_could_not_tell_does_not_start(node, valkey_url):
    refused = node.process("clock", ALERT_URLS="nonsense://", REDIS_URL=valkey_url)
    assert refused.returncode == 2
    assert b"ALERT_URLS: number 1 is not a URL that Apprise knows." in refused.stderr
    assert b"Traceback" not in refused.stderr
