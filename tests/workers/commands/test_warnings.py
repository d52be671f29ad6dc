"""`webhooks warnings`: one object a warning, and the totals of all of them."""

from datetime import timedelta

import pytest

from handlers.kit.context import Push
from ingest.wire.timestamps import utc_now
from workers.ledger import pushes
from workers.ledger.pushes import NewPush, PushUpdate
from workers.ledger.states import Outcome, PushState

HANDLER = "warn_the_driver"
RECORDED = ("session_record", Outcome.DONE)


@pytest.fixture
def store_warnings(noon, event):
    """Store the notices of three sessions: warned and stopped in time; noticed twice; without a driver."""

    def store(node):
        def notice(session, minute, outcome):
            at, start = noon + timedelta(minutes=minute), noon + timedelta(minutes=10)
            body = event(
                "SESSION_FEE_INCURRING", session, at=at, feeType="BLOCKING", feeWillApplyFrom=start.isoformat()
            )
            return node.settle(body, (HANDLER, outcome), received_at=at)

        for session in ("S1", "S2"):
            node.settle(event("SESSION_STARTED", session, userId="driver@example.com"), RECORDED)
            push = Push("driver@example.com", "A fee", "is near", "fee", session_id=session)
            warned = notice(session, 1, Outcome.DONE)
            with node.engine.begin() as conn:
                (id_,) = pushes.insert(conn, [NewPush(warned, HANDLER, "log", push, noon)])
                sent_at = noon + timedelta(minutes=1, seconds=2)
                pushes.mark(conn, [PushUpdate(id=id_, attempt=0, state=PushState.SENT, sent_at=sent_at)])
        node.settle(event("SESSION_STOPPED", "S1", at=noon + timedelta(minutes=5)), RECORDED)
        notice("S2", 2, Outcome.DONE)
        notice("S3", 3, Outcome.MOOT)

    return store


def test_a_warning_has_exactly_the_keys_of_the_interface(any_node, store_warnings):
    store_warnings(any_node)
    rows = any_node.rows("warnings", "--session", "S1")
    assert [list(row.items()) for row in rows] == [
        [
            ("session_id", "S1"),
            ("user_id", "driver@example.com"),
            ("fee_type", "BLOCKING"),
            ("fee_will_apply_from", "2026-05-04T12:10:00Z"),
            ("received_at", "2026-05-04T12:01:00Z"),
            ("sent_at", "2026-05-04T12:01:02Z"),
            ("lead_seconds", 538.0),
            ("outcome", "sent"),
            ("reason", None),
            ("session_ended_at", "2026-05-04T12:05:00Z"),
            ("fee_avoided", True),
        ]
    ]


def test_people_see_the_totals_of_all_warnings_whatever_the_limit(node, store_warnings):
    store_warnings(node)
    shown = node.run("warnings", "--limit", "1", "--since", "2026-05-01").stdout.splitlines()
    assert shown[-4:] == [
        "",
        "2 warned in time",
        "2 nobody to tell, or nothing to tell any more: 1 an earlier notice has said the same",
        "3 fees: 1 avoided, 1 incurred, 1 open",
    ]
    assert "S3" in shown[1]
    assert not any("S2" in line for line in shown)


def test_without_a_filter_the_totals_are_of_a_week(node, store_warnings, event):
    """Those of all warnings take longer every day."""
    store_warnings(node)
    assert "fees:" not in node.run("warnings").stdout
    now = utc_now()
    body = event("SESSION_FEE_INCURRING", "S4", at=now, feeType="BLOCKING", feeWillApplyFrom=now.isoformat())
    node.settle(body, (HANDLER, Outcome.MOOT), received_at=now)
    shown = node.run("warnings").stdout.splitlines()
    assert shown[-3].startswith("Since ")
    assert shown[-2:] == ["1 nobody to tell, or nothing to tell any more", "1 fee: 0 avoided, 0 incurred, 1 open"]
    assert len([line for line in shown if "S1" in line]) == 1


def test_a_driver_is_found_in_any_case(node, store_warnings):
    store_warnings(node)
    found = node.rows("warnings", "--user", "Driver@Example.COM")
    assert sorted((row["session_id"], row["outcome"]) for row in found) == [
        ("S1", "sent"),
        ("S2", "moot"),
        ("S2", "sent"),
    ]
    assert node.rows("warnings", "--user", "driver") == []


def test_without_warnings_there_are_no_totals(node):
    assert node.run("warnings").stdout == "None.\n"
    assert node.rows("warnings") == []
