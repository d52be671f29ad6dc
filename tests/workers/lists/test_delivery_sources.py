"""Which deliveries are found, in which order and state: those of the ledger and of this node's inbox."""

from datetime import timedelta

from workers.ledger.states import Outcome
from workers.lists import delivery_sources

DELIVERY_KEYS = ["id", "kind", "event", "session_id", "received_at", "state", "key", "duplicates", "runs"]


def test_a_delivery_of_the_inbox_is_listed_as_kept_or_queued(node, event, noon):
    settled = node.settle(event("SESSION_STARTED"), ("thank", Outcome.DONE))
    kept = node.keep(event("SESSION_STOPPED"), received_at=noon + timedelta(seconds=2))
    queued = node.keep(event("SESSION_COMPLETE"), offered=True, received_at=noon + timedelta(seconds=1))

    rows = node.rows("deliveries")

    assert [(row["id"], row["state"]) for row in rows] == [(kept, "kept"), (queued, "queued"), (settled, "settled")]
    assert [list(row) for row in rows] == [DELIVERY_KEYS] * 3
    assert [row["id"] for row in node.rows("deliveries", "--state", "queued")] == [queued]
    assert [row["id"] for row in node.rows("deliveries", "--state", "settled")] == [settled]


def test_a_delivery_in_both_stores_is_listed_once_as_the_ledger_has_it(node, event):
    node.settle(event("SESSION_STARTED"), ("thank", Outcome.DONE))
    node.keep(event("SESSION_STARTED"), offered=True)

    assert [row["state"] for row in node.rows("deliveries")] == ["settled"]


def test_a_long_list_is_read_page_by_page_even_if_many_arrived_at_one_time(node, event, noon, monkeypatch):
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
