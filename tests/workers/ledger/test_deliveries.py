"""Deliveries: stored once however often they arrive, counted, and found."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from workers.ledger import deliveries
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.states import DeliveryState, Outcome


def find(ledger, limit=None, **filters):
    with ledger.begin() as conn:
        return deliveries.find(conn, DeliveryFilters(**filters), limit)


def test_a_stored_delivery_is_fetched_unchanged(ledger, noon):
    arrived = ledger.delivery(
        body=b"\x00\xff{ not json \xed\xa0\x80",
        headers={"user-agent": "okhttp \xff \x00 \ud800"},
        signed_at=noon - timedelta(seconds=3),
        received_at=noon.astimezone(timezone(timedelta(hours=-11))),
    )
    assert ledger.store(arrived) == {"d1"}
    with ledger.begin() as conn:
        assert deliveries.fetch(conn, ["d1", "unknown"]) == [arrived]


def test_times_come_back_in_utc(ledger, noon):
    ledger.store(ledger.delivery(received_at=noon.astimezone(timezone(timedelta(hours=5, minutes=30)))))
    assert ledger.show("d1").received_at.tzinfo is UTC
    assert ledger.show("d1").received_at == noon


def test_the_ends_of_the_calendar_can_be_stored(ledger):
    first = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
    last = datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))
    ledger.store(ledger.delivery("d1", signed_at=first), ledger.delivery("d2", signed_at=last))
    assert ledger.show("d1").signed_at == datetime.min.replace(tzinfo=UTC)
    assert ledger.show("d2").signed_at == datetime.max.replace(tzinfo=UTC)


def test_a_time_without_a_zone_is_refused(ledger, noon):
    with pytest.raises(ValueError, match="without a zone"):
        ledger.store(ledger.delivery(received_at=noon.replace(tzinfo=None)))


def test_a_body_of_a_mebibyte_survives(ledger):
    body = bytes(range(256)) * 4096
    ledger.store(ledger.delivery(body=body))
    assert ledger.show("d1").body == body


def test_a_large_batch_is_stored_whole(ledger):
    batch = [ledger.delivery(f"d{number:04}", session_id=None, event=None) for number in range(3000)]
    assert len(ledger.store(*batch)) == 3000
    with ledger.begin() as conn:
        assert len(deliveries.fetch(conn, [one.id for one in batch])) == 3000


def test_nothing_is_stored_for_an_empty_batch(ledger):
    assert ledger.store() == set()


def test_the_same_delivery_is_new_only_once(ledger):
    assert ledger.store(ledger.delivery("d1"), ledger.delivery("d2")) == {"d1", "d2"}
    assert ledger.store(ledger.delivery("d2"), ledger.delivery("d3")) == {"d3"}


def test_a_batch_processed_again_adds_no_duplicate(ledger):
    ledger.store(ledger.delivery())
    ledger.store(ledger.delivery())
    assert ledger.show("d1").duplicates == 0


def test_a_repeat_is_counted(ledger):
    ledger.store(ledger.delivery())
    ledger.store(ledger.delivery(body=None, receipts=3))
    assert ledger.show("d1").duplicates == 2


def test_a_repeat_in_the_same_batch_is_counted(ledger):
    assert ledger.store(ledger.delivery(), ledger.delivery(body=None, receipts=2)) == {"d1"}
    assert ledger.show("d1").duplicates == 1


def test_a_repeat_that_comes_before_its_delivery_is_counted(ledger):
    assert ledger.store(ledger.delivery(body=None, receipts=2)) == set()
    assert find(ledger) == []
    ledger.store(ledger.delivery(receipts=1))
    assert ledger.show("d1").duplicates == 1


def test_a_count_that_comes_late_or_twice_changes_nothing(ledger):
    ledger.store(ledger.delivery(receipts=4))
    ledger.store(ledger.delivery(body=None, receipts=4))
    ledger.store(ledger.delivery(body=None, receipts=2))
    assert ledger.show("d1").duplicates == 3


def test_receipts_on_several_nodes_are_added_up(ledger):
    ledger.store(ledger.delivery(inbox="here"))
    ledger.store(ledger.delivery(inbox="there"))
    assert ledger.show("d1").duplicates == 1
    ledger.store(ledger.delivery(inbox="there", body=None, receipts=2))
    ledger.store(ledger.delivery(inbox="here", body=None, receipts=2))
    assert ledger.show("d1").duplicates == 3


def test_of_workers_with_the_same_batch_each_delivery_is_new_to_one(ledger):
    batch = [ledger.delivery(f"d{number}") for number in range(50)]

    def work(conn, number):
        ordered = batch if number % 2 else batch[::-1]
        return deliveries.store(conn, ordered, {one.id: (DeliveryState.RUNNING, None) for one in ordered})

    shares = ledger.at_once(work)
    assert sorted(key for share in shares for key in share) == sorted(one.id for one in batch)


def test_the_reason_of_an_unreadable_delivery_is_stored(ledger):
    with ledger.begin() as conn:
        deliveries.store(conn, [ledger.delivery()], {"d1": (DeliveryState.UNREADABLE, "not \x00 JSON \ud800")})
    row = ledger.show("d1")
    assert (row.state, row.reason) == (DeliveryState.UNREADABLE, "not \\u0000 JSON \\ud800")
    assert row.settled_at is not None


def test_an_unreadable_delivery_can_be_decoded_later(ledger):
    with ledger.begin() as conn:
        deliveries.store(
            conn, [ledger.delivery(event=None, session_id=None)], {"d1": (DeliveryState.UNREADABLE, "why")}
        )
        deliveries.mark_decoded(conn, "d1", "SESSION_STARTED", "s9")
    ledger.run("d1", "handler", Outcome.DONE)
    row = ledger.show("d1")
    assert (row.event, row.session_id, row.reason, row.state) == ("SESSION_STARTED", "s9", None, "settled")


def test_deliveries_are_listed_newest_first_with_their_runs(ledger, noon):
    ledger.store(*[ledger.delivery(f"d{minute}", received_at=noon + timedelta(minutes=minute)) for minute in range(4)])
    ledger.run("d2", "b_handler", Outcome.AGAIN, error="ValueError: no")
    ledger.run("d2", "a_handler", Outcome.DONE)
    found = find(ledger, limit=2)
    assert [row.id for row in found] == ["d3", "d2"]
    assert [(each.handler, each.outcome, each.attempts, each.error) for each in found[1].runs] == [
        ("a_handler", Outcome.DONE, 1, None),
        ("b_handler", Outcome.AGAIN, 1, "ValueError: no"),
    ]
    assert found[0].body is None


def test_every_filter_narrows_the_list(ledger, noon):
    ledger.store(
        ledger.delivery("d1", event="SESSION_STARTED", session_id="s1"),
        ledger.delivery("d2", event="SESSION_STOPPED", session_id="s1", received_at=noon + timedelta(hours=1)),
        ledger.delivery("d3", event=None, session_id=None, received_at=noon + timedelta(hours=2)),
    )
    ledger.run("d1", "warn", Outcome.DEAD)
    ledger.run("d2", "warn", Outcome.DONE)
    ledger.run("d2", "bill", Outcome.DEAD)

    def ids(**filters):
        return [row.id for row in find(ledger, **filters)]

    assert ids(event="SESSION_STOPPED") == ["d2"]
    assert ids(session_id="s1") == ["d2", "d1"]
    assert ids(state=DeliveryState.DEAD) == ["d2", "d1"]
    assert ids(since=noon + timedelta(hours=1)) == ["d3", "d2"]
    assert ids(until=noon + timedelta(hours=1)) == ["d1"]
    assert ids(handler="bill") == ["d2"]
    assert ids(outcome=Outcome.DEAD) == ["d2", "d1"]
    assert ids(handler="warn", outcome=Outcome.DEAD) == ["d1"]
    assert ids(state=DeliveryState.KEPT) == []


def test_ids_to_replay_come_oldest_first(ledger, noon):
    ledger.store(*[ledger.delivery(f"d{minute}", received_at=noon + timedelta(minutes=minute)) for minute in range(3)])
    with ledger.begin() as conn:
        assert deliveries.find_ids(conn, DeliveryFilters()) == ["d0", "d1", "d2"]


def test_only_the_wanted_deliveries_are_returned(ledger):
    ledger.store(ledger.delivery("d1"), ledger.delivery("d2"))
    with ledger.begin() as conn:
        assert [row.body for row in deliveries.get_many(conn, ["d2", "d9"])] == [None]
        assert [row.body for row in deliveries.get_many(conn, ["d2"], bodies=True)] == [b"{}"]


def test_an_unknown_delivery_is_none(ledger):
    assert ledger.show("d1") is None


def test_a_prefix_resolves_to_the_only_id_that_has_it(ledger):
    ledger.store(ledger.delivery("ab12"), ledger.delivery("ab34"), ledger.delivery("cd56"))
    with ledger.begin() as conn:
        assert deliveries.resolve_id(conn, "c") == "cd56"
        assert deliveries.resolve_id(conn, "ab3") == "ab34"
        assert deliveries.resolve_id(conn, "ab12") == "ab12"
        assert deliveries.resolve_id(conn, "ab") is None
        assert deliveries.resolve_id(conn, "ab12x") is None
        assert deliveries.resolve_id(conn, "%") is None


def test_settled_deliveries_have_no_open_run(ledger):
    ledger.store(ledger.delivery("d1"), ledger.delivery("d2"), ledger.delivery("d3"))
    ledger.run("d1", "handler", Outcome.DONE)
    ledger.run("d2", "handler", Outcome.AGAIN)
    with ledger.begin() as conn:
        assert deliveries.settled(conn, ["d1", "d2", "d3", "d4"]) == {"d1"}
