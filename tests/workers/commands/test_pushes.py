from datetime import timedelta

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


def add_push(node, delivery_id, noon):
    push = Push("user1", "A fee", "is near", "fee", session_id="L60XMxWy0oP", expires_at=noon + timedelta(minutes=10))
    with node.engine.begin() as conn:
        (id_,) = pushes.insert(conn, [NewPush(delivery_id, "warn_the_driver", "log", push, noon)])
        sent = PushUpdate(id=id_, attempt=0, state=PushState.SENT, sent_at=noon + timedelta(seconds=1))
        pushes.mark(conn, [sent])
