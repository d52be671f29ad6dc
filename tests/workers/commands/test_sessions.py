"""`webhooks sessions`: a row for each session, with the fields of `webhooks session`."""

import re
from datetime import timedelta

import pytest

from workers.ledger.states import Outcome

DONE = ("session_record", Outcome.DONE)
KEYS = [
    "session_id",
    "user_id",
    "status",
    "started_at",
    "stopped_at",
    "completed_at",
    "fee_type",
    "fee_will_apply_from",
    "anomalies",
    "updated_at",
]


@pytest.fixture
def two_sessions(any_node, event, noon):
    """Store one that is over, after two drivers were named, and one that runs."""
    any_node.settle(event("SESSION_STARTED", "over", userId="Dana@example.com"), DONE)
    any_node.settle(event("SESSION_STOPPED", "over", at=noon + timedelta(minutes=4), userId="erik"), DONE)
    any_node.settle(event("SESSION_STARTED", "runs", userId="Dana@example.com"), DONE)
    fee = {"feeType": "BLOCKING", "feeWillApplyFrom": "2026-05-04T12:10:00Z"}
    any_node.settle(event("SESSION_FEE_INCURRING", "runs", **fee), DONE)
    return any_node


def test_a_row_is_the_record_of_its_session_and_the_time_of_its_last_news(two_sessions):
    runs, over = two_sessions.rows("sessions")
    assert list(runs) == KEYS
    assert runs.pop("updated_at") > over.pop("updated_at")
    for row in (runs, over):
        (whole,) = two_sessions.rows("session", row["session_id"])
        assert row == {name: whole[name] for name in KEYS[:-1]}
    assert (runs["status"], runs["fee_type"]) == ("STARTED", "BLOCKING")
    assert over["anomalies"] == ["two_users"]


def test_filters_narrow_the_list(two_sessions):
    def listed(*options):
        return [row["session_id"] for row in two_sessions.rows("sessions", *options)]

    assert listed("--user", "DANA@example.com") == ["runs"]
    assert listed("--user", "ERIK") == ["over"]
    assert listed("--status", "open") == listed("--status", "STARTED") == ["runs"]
    assert listed("--since", "1h") == ["runs", "over"]
    assert listed("--until", "1h") == []
    assert listed("--limit", "1") == ["runs"]


def test_a_status_that_no_index_has_is_refused_with_those_that_can_be_asked_for(two_sessions):
    assert "'STARTED'" in two_sessions.run("sessions", "--status", "COMPLETE", code=2).output


def test_people_read_a_table_and_spreadsheets_csv(two_sessions):
    headings, first, second = two_sessions.run("sessions").stdout.splitlines()
    assert " ".join(headings.split()) == "last news session driver status started ended notes"
    assert "runs" in first
    assert re.search("BLOCKING from [-0-9]+ [:0-9]+$", first)
    assert second.endswith("  two_users")
    assert second.count(":04:00") == 1  # its end
    assert two_sessions.run("sessions", "--csv").stdout.splitlines()[0] == ",".join(KEYS)
