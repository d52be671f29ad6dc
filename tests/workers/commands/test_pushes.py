from datetime import UTC, datetime, timedelta

import pytest

from handlers.kit.context import Push
from workers.ledger import pushes
from workers.ledger.pushes import NewPush, PushUpdate
from workers.ledger.states import PushState

PUSH_KEYS = [
    "id",
    "session_id",
    "user_id",
    "channel",
    "state",
    "title",
    "body",
    "expires_at",
    "sent_at",
    "attempts",
]


def test_pushes_are_listed_with_exactly_the_keys_of_the_interface(any_node, event, noon):
    id_ = any_node.settle(event("SESSION_FEE_INCURRING", feeType="BLOCKING", feeWillApplyFrom="2026-05-04T12:10:00Z"))
    add_push(any_node, id_, noon)

    (row,) = any_node.rows("pushes")

    assert list(row) == PUSH_KEYS
    assert {key: row[key] for key in PUSH_KEYS[1:]} == {
        "session_id": "L60XMxWy0oP",
        "user_id": "user1",
        "channel": "log",
        "state": "sent",
        "title": "A fee",
        "body": "is near",
        "expires_at": "2026-05-04T12:10:00Z",
        "sent_at": "2026-05-04T12:00:01Z",
        "attempts": 0,
    }
    assert "A fee: is near" in any_node.run("pushes").stdout
    assert any_node.rows("pushes", "--state", "waiting") == []
    assert len(any_node.rows("pushes", "--session", "L60XMxWy0oP", "--since", "2026-05-04T12:00:00Z")) == 1


@pytest.fixture
def given_up(any_node, event):
    """Insert a push that is dead or expired, with so much time left."""
    delivery_id = any_node.settle(event("SESSION_FEE_INCURRING"))

    def add(name, left, state=PushState.DEAD, channel="log"):
        now = datetime.now(UTC)
        push = Push("user1", "A fee", "is near", name, expires_at=now + left)
        with any_node.engine.begin() as conn:
            (id_,) = pushes.insert(conn, [NewPush(delivery_id, "warn_the_driver", channel, push, now)])
            pushes.mark(conn, [PushUpdate(id=id_, attempt=0, state=state, error="refused")])
        return id_

    return add


def states_of(node):
    return {row["id"]: row["state"] for row in node.rows("pushes")}


def test_dead_pushes_are_sent_again_if_their_time_has_not_passed(any_node, given_up):
    dead, late = given_up("dead", timedelta(hours=1)), given_up("late", -timedelta(hours=1))

    preview = any_node.run("pushes", "retry", "--since", "1h", "--dry-run")
    assert "Pushes that would be sent again: 1." in preview.stdout
    assert states_of(any_node) == {dead: "dead", late: "dead"}

    printed = any_node.run("pushes", "retry", "--since", "1h").stdout
    assert printed.splitlines() == [
        "Pushes that are sent again: 1.",
        "Not sent, as their time has passed: 1. With --even-if-late they are.",
    ]
    assert states_of(any_node) == {dead: "waiting", late: "dead"}

    assert "sent again: 1." in any_node.run("pushes", "retry", "--state", "dead", "--even-if-late").stdout
    assert states_of(any_node) == {dead: "waiting", late: "waiting"}


def test_pushes_to_send_again_are_named_by_id_by_channel_or_by_state(any_node, given_up):
    one = given_up("one", timedelta(hours=1), PushState.EXPIRED)
    other = given_up("other", timedelta(hours=1), channel="fcm")

    assert "sent again: 0." in any_node.run("pushes", "retry", "--channel", "log").stdout
    assert any_node.rows("pushes", "retry", "--state", "expired", "--dry-run") == [
        row for row in any_node.rows("pushes") if row["id"] == one
    ]
    assert "sent again: 1." in any_node.run("pushes", "retry", one[:8]).stdout
    assert any_node.run("pushes", "retry", one).stdout.splitlines() == [
        "Pushes that are sent again: 0.",
        "Not sent again, as they were not given up: 1.",
    ]
    assert states_of(any_node) == {one: "waiting", other: "dead"}


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["1", "--since", "1h"], 2), (["unknown"], 1)])
def test_pushes_to_send_again_must_be_named_in_one_way_and_known(any_node, given_up, arguments, code):
    assert any_node.run("pushes", "retry", *arguments, code=code).exit_code == code


def add_push(node, delivery_id, noon):
    push = Push("user1", "A fee", "is near", "fee", session_id="L60XMxWy0oP", expires_at=noon + timedelta(minutes=10))
    with node.engine.begin() as conn:
        (id_,) = pushes.insert(conn, [NewPush(delivery_id, "warn_the_driver", "log", push, noon)])
        sent = PushUpdate(id=id_, attempt=0, state=PushState.SENT, sent_at=noon + timedelta(seconds=1))
        pushes.mark(conn, [sent])


def test_who_sent_again_is_recorded_with_the_number(any_node, given_up):
    id_ = given_up("one", timedelta(hours=1))
    any_node.run("pushes", "retry", id_, "--dry-run")
    assert any_node.rows("audit") == []
    any_node.run("pushes", "retry", id_)
    any_node.run("pushes", "retry", "--channel", "log")  # there is none any more
    assert [(row["act"], row["subject"], row["count"]) for row in any_node.rows("audit")] == [("resent", id_[:12], 1)]
