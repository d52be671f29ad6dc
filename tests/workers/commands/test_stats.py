"""`webhooks stats`: the shape that programs read, and what people see."""

from dataclasses import replace
from datetime import timedelta
from importlib import import_module

from workers.ledger.states import Outcome
from workers.ledger.stats_queries import read_stats


def test_the_numbers_have_the_keys_of_the_interface(any_node, event, noon):
    any_node.settle(event("SESSION_STARTED"), ("session_record", Outcome.DONE))
    any_node.settle(
        event("SESSION_STARTED", "s2"), ("session_record", Outcome.DONE), received_at=noon - timedelta(days=1)
    )
    (row,) = any_node.rows("stats", "--since", "2026-05-04T12:00:00Z", "--until", "2026-05-04T13:00:00Z")
    names = ["since", "until", "events", "deliveries", "warnings", "pushes", "authorizations", "runs", "latency"]
    assert list(row) == names
    assert row["events"] == {"SESSION_STARTED": 1}
    assert row["runs"] == {"session_record": {"done": 1}}
    assert list(row["latency"]) == ["received_to_settled", "received_to_push", "authorization"]
    assert row["latency"]["received_to_settled"]["count"] == 1


def test_people_see_today_unless_they_ask_for_another_span(node, event):
    node.settle(event("SESSION_STARTED"), ("session_record", Outcome.DONE))
    assert "SESSION_STARTED" not in node.run("stats").stdout
    shown = node.run("stats", "--since", "2026-05-01").stdout
    assert "SESSION_STARTED  1" in shown
    assert "runs, session_record" in shown
    assert "in the future" in node.run("stats", "--since", "2999-01-01", code=2).output
    assert "before --until" in node.run("stats", "--since", "1h", "--until", "2h", code=2).output


def test_what_became_of_warnings_is_said_in_the_words_of_the_console(node, monkeypatch):
    def read(conn, since, until):
        return replace(read_stats(conn, since, until), warnings={"sent": 2, "late": 1})

    monkeypatch.setattr(import_module("workers.commands.stats"), "read_stats", read)
    shown = node.run("stats", "--since", "2026-05-01").stdout
    assert "warned in time  2" in shown
    assert "too late        1" in shown
