import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ingest.inbox.downtime import list_downtimes, record_downtime
from ingest.inbox.schema import FILE_NAME, inbox_id, open_inbox_file
from ingest.wire.envelope import Kind
from workers.ledger.downtimes import BackfillWindow, import_new, release
from workers.ledger.states import Outcome

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC).timestamp()
DELIVERY_KEYS = ["id", "kind", "event", "session_id", "received_at", "state", "key", "duplicates", "runs"]


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


def test_a_person_sees_a_screen_and_a_hint_that_there_is_more(node, event):
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


def test_what_a_sender_wrote_does_not_control_the_terminal(node, event):
    node.settle(event("\x1b[2J\u202eSESSION", "[red]s\x07"), ("*", Outcome.IGNORED))

    output = node.run("deliveries").output

    assert "\x1b" not in output
    assert "\u202e" not in output
    assert "\\x1b[2J\\u202eSESSION" in output
    assert "[red]s\\x07" in output


def test_dead_letters_name_the_handler_and_the_first_line_of_the_error(any_node, event):
    id_ = any_node.settle(
        event("SESSION_STARTED"),
        ("thank", Outcome.DONE),
        ("warn", Outcome.DEAD),
        ("notify", Outcome.DEAD),
        error="ValueError: no\nmore of it",
    )

    rows = any_node.rows("dead")

    assert [(row["delivery"], row["handler"], row["attempts"], row["error"]) for row in rows] == [
        (id_, "notify", 1, "ValueError: no"),
        (id_, "warn", 1, "ValueError: no"),
    ]
    assert [row["handler"] for row in any_node.rows("dead", "--handler", "warn")] == ["warn"]
    assert "more of it" not in any_node.run("dead").stdout


def test_a_cdr_is_listed_under_its_kind_as_it_has_no_event_name(node):
    node.settle(json.dumps({"sessionId": "s"}).encode(), ("*", Outcome.IGNORED), kind=Kind.CDRS)

    (row,) = node.rows("deliveries")

    assert (row["kind"], row["event"], row["session_id"]) == ("cdrs", None, "s")
    assert "cdrs" in node.run("deliveries").stdout


@pytest.fixture
def inbox_on():
    """Make the inbox of a node with two downtimes; returns its id."""

    def make(node):
        with contextlib.closing(open_inbox_file(node.folder / FILE_NAME)) as file:
            record_downtime(file, closed_at=NOON, opened_at=NOON + 90)
            record_downtime(file, closed_at=NOON + 3600, opened_at=NOON + 3607.5)
            return inbox_id(file)

    return make


@pytest.fixture
def inbox(node, inbox_on):
    return inbox_on(node)


def test_downtimes_are_listed_newest_first(node, inbox):
    rows = node.rows("deliveries", "--gaps")
    assert [(row["closed_at"], row["opened_at"], row["seconds"]) for row in rows] == [
        ("2026-05-04T13:00:00Z", "2026-05-04T13:00:07.500000Z", 7.5),
        ("2026-05-04T12:00:00Z", "2026-05-04T12:01:30Z", 90.0),
    ]
    assert {row["inbox"] for row in rows} == {inbox}
    assert list(rows[0]) == ["inbox", "closed_at", "opened_at", "seconds", "covered_at", "sessions_read"]


def test_a_downtime_is_listed_with_what_the_ledger_knows_of_it(any_node, inbox_on):
    inbox_on(any_node)
    with contextlib.closing(open_inbox_file(any_node.folder / FILE_NAME)) as file:
        here = list_downtimes(file, inbox_id(file))
    elsewhere = replace(here[0], inbox="another-node", closed_at=here[0].closed_at + timedelta(minutes=1))
    noticed_at = here[0].opened_at
    window = BackfillWindow(elsewhere.inbox, elsewhere.closed_at, elsewhere.opened_at, noticed_at, None)
    with any_node.engine.begin() as conn:
        import_new(conn, [here[0], elsewhere], noticed_at)
        release(conn, window, elsewhere.opened_at)
    assert [(row["inbox"], row["covered_at"]) for row in any_node.rows("deliveries", "--gaps")] == [
        (here[1].inbox, None),
        ("another-node", "2026-05-04T12:01:30Z"),
        (here[0].inbox, None),
    ]
    shown = any_node.run("deliveries", "--gaps").stdout.splitlines()
    assert [line.partition("  ")[2].strip().rpartition("  ")[2] for line in shown[1:]] == [
        "not known to the ledger yet",
        "0 sessions",
        "not yet",
    ]


@pytest.mark.parametrize(
    ("bounds", "count"),
    [
        (["--since", "2026-05-04T12:01:00Z"], 2),
        (["--since", "2026-05-04T12:02:00Z"], 1),
        (["--until", "2026-05-04T12:00:01Z"], 1),
        (["--until", "2026-05-04T12:00:00Z"], 0),
        (["--limit", "1"], 1),
    ],
)
def test_a_downtime_is_listed_if_any_of_it_is_in_the_span(node, inbox, bounds, count):
    assert len(node.rows("deliveries", "--gaps", *bounds)) == count


def test_a_person_sees_how_long_each_downtime_was(node, inbox):
    shown = node.run("deliveries", "--gaps").stdout
    assert "7.5 s" in shown
    assert "90 s" in shown or "2 min" in shown


def test_a_node_without_downtimes_prints_none(node):
    assert node.run("deliveries", "--gaps").stdout == "None.\n"


def test_a_limit_counts_dead_letters_and_not_their_deliveries(node, event):
    node.settle(event("SESSION_STARTED"), ("one", Outcome.DEAD), ("two", Outcome.DEAD), error="ValueError: no")

    assert len(node.rows("dead", "--limit", "1")) == 1
    assert "--limit shows more" in node.run("dead", "--limit", "1").stderr
    assert "--limit" not in node.run("dead", "--limit", "3").stderr
