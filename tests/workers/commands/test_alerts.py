"""`webhooks alerts`: the list, resolving, and a test of the destinations."""

from datetime import UTC, datetime, timedelta

import pytest

from workers.alerts.alerts import Alert, AlertKind, raise_alert

URL = "json://127.0.0.1:1/a-secret-token"


@pytest.fixture
def alerting(any_node):
    """A node with two alerts."""
    now = datetime.now(UTC)
    with any_node.engine.begin() as ledger:
        raise_alert(ledger, Alert(AlertKind.SILENCE, "events", "It is quiet."), now - timedelta(hours=2))
        alert = Alert(AlertKind.CDR_CONFLICT, "r1", "Two say different things.", session_id="s1", delivery_id="d1")
        raise_alert(ledger, alert, now)
    return any_node


def test_alerts_are_listed_newest_first(alerting):
    newest, _ = rows = alerting.rows("alerts")
    assert [row["kind"] for row in rows] == ["cdr_conflict", "silence"]
    assert {name: newest[name] for name in ("subject", "sentence", "session_id", "delivery_id", "resolved_at")} == {
        "subject": "r1",
        "sentence": "Two say different things.",
        "session_id": "s1",
        "delivery_id": "d1",
        "resolved_at": None,
    }
    assert newest["raised_at"].endswith("Z")
    assert "open, not sent" in alerting.run("alerts").stdout


def test_alerts_are_filtered_by_kind_state_and_time(alerting):
    assert [row["kind"] for row in alerting.rows("alerts", "--kind", "silence")] == ["silence"]
    assert [row["kind"] for row in alerting.rows("alerts", "--since", "1h")] == ["cdr_conflict"]
    assert len(alerting.run("alerts", "--limit", "1").stdout.splitlines()) == 2


def test_a_resolved_alert_is_not_open_any_more(alerting):
    conflict, silence = (row["id"] for row in alerting.rows("alerts"))
    assert alerting.run("alerts", "resolve", conflict).stdout == "It is resolved.\n"
    assert [row["id"] for row in alerting.rows("alerts", "--open")] == [silence]
    assert "Only 1 of these were open" in alerting.run("alerts", "resolve", conflict, silence, code=1).output
    assert "None." in alerting.run("alerts", "--open").stdout


def test_a_test_needs_a_destination(node):
    assert "ALERT_URLS is not set" in node.run("alerts", "test", code=2).output


def test_a_test_prints_the_result_of_each_destination(node, provider):
    good = provider.url.replace("http://", "json://")
    assert ": accepted" in node.run("alerts", "test", ALERT_URLS=good).stdout
    assert "This is a test" in provider.bodies[0]["message"]
    result = node.run("alerts", "test", code=1, ALERT_URLS=f"{good} {URL}")
    assert ": accepted" in result.stdout
    assert "it was not accepted. A Connection error" in result.stdout
    assert "1 of 2 did not take it" in result.output
    assert "a-secret-token" not in result.output


def test_check_names_the_destinations_of_alerts(node):
    assert "to the log only" in node.run("check", code=1).stdout
    assert "to the log and to json, except gap" in node.run("check", code=1, ALERT_URLS=URL, ALERT_MUTED="gap").stdout
    assert "number 1 is not a URL" in node.run("check", code=1, ALERT_URLS="nonsense").stdout


def test_a_clock_with_destinations_that_cannot_be_read_does_not_start(node, valkey_url):
    refused = node.process("clock", ALERT_URLS="nonsense://", REDIS_URL=valkey_url)
    assert refused.returncode == 2
    assert b"ALERT_URLS: number 1 is not a URL that Apprise knows." in refused.stderr
    assert b"Traceback" not in refused.stderr
