import json
from datetime import timedelta

import pytest

from handlers.kit.context import Push
from ingest.wire.envelope import Kind
from workers.commands import delivery_sources
from workers.ledger import pushes
from workers.ledger.pushes import NewPush, PushUpdate
from workers.ledger.states import Outcome, PushState

DELIVERY_KEYS = ["id", "kind", "event", "session_id", "received_at", "state", "key", "duplicates", "runs"]
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


def test_a_delivery_is_listed_with_exactly_the_keys_of_the_interface(any_node, event):
    id_ = any_node.settle(
        event("SESSION_STARTED"), ("thank", Outcome.DONE), ("warn", Outcome.DEAD), receipts=3, error="ValueError: no"
    )

    (row,) = any_node.rows("deliveries")

    assert list(row) == DELIVERY_KEYS
    assert row == {
        "id": id_,
        "kind": "events",
        "event": "SESSION_STARTED",
        "session_id": "L60XMxWy0oP",
        "received_at": "2026-05-04T12:00:00Z",
        "state": "dead",
        "key": "current",
        "duplicates": 2,
        "runs": [
            {"handler": "thank", "outcome": "done", "attempts": 1, "error": None},
            {"handler": "warn", "outcome": "dead", "attempts": 1, "error": "ValueError: no"},
        ],
    }


def test_what_lies_in_the_inbox_is_listed_as_kept_or_queued(node, event, noon):
    settled = node.settle(event("SESSION_STARTED"), ("thank", Outcome.DONE))
    kept = node.keep(event("SESSION_STOPPED"), received_at=noon + timedelta(seconds=2))
    queued = node.keep(event("SESSION_COMPLETE"), offered=True, received_at=noon + timedelta(seconds=1))

    rows = node.rows("deliveries")

    assert [(row["id"], row["state"]) for row in rows] == [(kept, "kept"), (queued, "queued"), (settled, "settled")]
    assert [list(row) for row in rows] == [DELIVERY_KEYS] * 3
    assert [row["id"] for row in node.rows("deliveries", "--state", "queued")] == [queued]
    assert [row["id"] for row in node.rows("deliveries", "--state", "settled")] == [settled]


def test_what_the_ledger_knows_already_is_listed_once_although_the_inbox_still_has_it(node, event):
    node.settle(event("SESSION_STARTED"), ("thank", Outcome.DONE))
    node.keep(event("SESSION_STARTED"), offered=True)

    assert [row["state"] for row in node.rows("deliveries")] == ["settled"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--event", "SESSION_STOPPED"], [1]),
        (["--session", "other"], [2]),
        (["--state", "dead"], [1]),
        (["--since", "2026-05-04T12:01:00Z"], [2, 1]),
        (["--until", "2026-05-04T12:01:00+00:00"], [0]),
        (["--since", "2026-05-04T12:01:00Z", "--until", "2026-05-04T12:02:00Z"], [1]),
        (["--limit", "2"], [2, 1]),
        (["--since", "1s"], []),
    ],
)
def test_filters_narrow_the_list_newest_first(node, event, noon, filters, found):
    ids = [
        node.settle(event("SESSION_STARTED"), ("a", Outcome.DONE), received_at=noon),
        node.settle(event("SESSION_STOPPED"), ("a", Outcome.DEAD), received_at=noon + timedelta(minutes=1)),
        node.settle(event("SESSION_STARTED", "other"), ("a", Outcome.DONE), received_at=noon + timedelta(minutes=2)),
    ]

    assert [row["id"] for row in node.rows("deliveries", *filters)] == [ids[number] for number in found]


def test_a_long_list_is_read_page_by_page_even_where_many_came_at_one_moment(node, event, noon, monkeypatch):
    monkeypatch.setattr(delivery_sources, "PAGE", 3)
    ids = {
        node.settle(
            event("SESSION_STARTED", f"s{number}"), ("a", Outcome.DONE), received_at=noon + timedelta(seconds=at)
        )
        for number, at in enumerate([0, 1, 1, 1, 1, 1, 1, 1, 2, 3, 3])
    }

    rows = node.rows("deliveries")

    assert [row["id"] for row in rows] == list(dict.fromkeys(row["id"] for row in rows))
    assert {row["id"] for row in rows} == ids
    assert [row["received_at"] for row in rows] == sorted((row["received_at"] for row in rows), reverse=True)


def test_a_person_sees_a_screen_of_short_lines_and_a_hint_that_there_is_more(node, event):
    for number in range(60):
        node.settle(event("SESSION_STARTED", f"s{number}"), ("thank", Outcome.DONE))

    result = node.run("deliveries")

    lines = result.stdout.splitlines()
    assert lines[0].split() == ["received", "id", "event", "session", "state", "notes"]
    assert len(lines) == 51
    assert "SESSION_STARTED" in lines[1]
    assert "1 done" in lines[1]
    assert "--limit" in result.stderr
    assert len(node.rows("deliveries")) == 60


def test_a_terminal_obeys_nothing_that_a_sender_wrote(node, event):
    node.settle(event("\x1b[2J\u202eSESSION", "[red]s\x07"), ("*", Outcome.IGNORED))

    output = node.run("deliveries").output

    assert "\x1b" not in output
    assert "\u202e" not in output
    assert "\\x1b[2J\\u202eSESSION" in output
    assert "[red]s\\x07" in output


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


def test_dead_letters_name_the_handler_and_the_first_line_of_the_error(any_node, event):
    id_ = any_node.settle(
        event("SESSION_STARTED"),
        ("thank", Outcome.DONE),
        ("warn", Outcome.DEAD),
        ("tell", Outcome.DEAD),
        error="ValueError: no\nmore of it",
    )

    rows = any_node.rows("dead")

    assert [(row["delivery"], row["handler"], row["attempts"], row["error"]) for row in rows] == [
        (id_, "tell", 1, "ValueError: no"),
        (id_, "warn", 1, "ValueError: no"),
    ]
    assert [row["handler"] for row in any_node.rows("dead", "--handler", "warn")] == ["warn"]
    assert "more of it" not in any_node.run("dead").stdout


def test_handlers_are_listed_with_their_events_and_queues(node):
    rows = {row["handler"]: row for row in node.rows("handlers")}

    assert rows["warn_the_driver"]["events"] == ["SESSION_FEE_INCURRING"]
    assert rows["warn_the_driver"]["queue"] == "urgent"
    assert rows["session_record"]["records"] is True
    assert rows["warn_the_driver"]["file"].endswith("handlers/fee_warning.py")
    assert "before all handlers" in node.run("handlers").stdout


def test_policies_are_listed_where_handlers_are_in_the_order_in_which_they_are_asked(node):
    assert "policy" not in node.run("handlers").stdout
    wanted = {"AUTHORIZE_ONE_SESSION": "true", "AUTHORIZE_KEY_LIST": "true"}
    rows = [row for row in node.rows("handlers", **wanted) if "policy" in row]
    assert [row["policy"] for row in rows] == ["key_list", "one_session"]
    assert rows[0]["order"] < rows[1]["order"]
    assert rows[0]["file"].endswith("handlers/authorize_key_list.py")
    for_people = node.run("handlers", **wanted).stdout
    assert for_people.index("key_list") < for_people.index("one_session")


def test_a_cdr_is_listed_although_it_has_no_event_name(node):
    node.settle(json.dumps({"sessionId": "s"}).encode(), ("*", Outcome.IGNORED), kind=Kind.CDRS)

    (row,) = node.rows("deliveries")

    assert (row["kind"], row["event"], row["session_id"]) == ("cdrs", None, "s")
    assert "cdrs" in node.run("deliveries").stdout


def add_push(node, delivery_id, noon):
    push = Push("user1", "A fee", "is near", "fee", session_id="L60XMxWy0oP", expires_at=noon + timedelta(minutes=10))
    with node.engine.begin() as conn:
        (id_,) = pushes.insert(conn, [NewPush(delivery_id, "warn_the_driver", "log", push, noon)])
        sent = PushUpdate(id=id_, attempt=0, state=PushState.SENT, sent_at=noon + timedelta(seconds=1))
        pushes.mark(conn, [sent])
