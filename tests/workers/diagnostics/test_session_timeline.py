"""The timeline of a session: each delivery with what it changed."""

import json
from datetime import UTC, datetime, timedelta

from workers.diagnostics.session_timeline import build_entries
from workers.ledger.deliveries import DeliveryRow
from workers.ledger.states import DeliveryState

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
SKEW = timedelta(minutes=5)


def arrived(id_: str, minute: int) -> DeliveryRow:
    return DeliveryRow(
        id=id_,
        kind="events",
        event=None,
        session_id="s",
        received_at=NOON + timedelta(minutes=minute),
        signed_with="current",
        signed_at=None,
        headers={},
        inbox="i",
        state=DeliveryState.SETTLED,
        reason=None,
        stored_at=NOON,
        settled_at=NOON,
        duplicates=0,
    )


def body(name: str, minute: int, **payload: str) -> bytes:
    at = NOON + timedelta(minutes=minute)
    return json.dumps({"event": name, "payload": {"sessionId": "s", "timestamp": at.isoformat(), **payload}}).encode()


def test_a_late_event_is_listed_at_its_own_time_with_what_it_changed_on_arrival():
    bodies = {
        "a": body("SESSION_STARTED", 0, userId="u"),
        "b": body("SESSION_COMPLETE", 9),
        "c": body("SESSION_STOPPED", 8),
    }

    entries = build_entries("s", [arrived("a", 0), arrived("b", 9), arrived("c", 10)], bodies, [], SKEW)

    assert [entry.delivery.id for entry in entries] == ["a", "c", "b"]
    assert [entry.late for entry in entries] == [timedelta(0), timedelta(minutes=2), timedelta(0)]
    assert [[change.field for change in entry.changes] for entry in entries] == [
        ["status", "user_id", "started_at"],
        ["stopped_at"],
        ["status", "completed_at"],
    ]
    assert (entries[2].changes[0].before, entries[2].changes[0].after) == ("STARTED", "COMPLETE")


def test_an_unreadable_delivery_is_listed_at_its_receipt_and_changes_nothing():
    entries = build_entries(
        "s", [arrived("a", 1), arrived("b", 2)], {"a": b"{", "b": body("SESSION_STARTED", 0)}, [], SKEW
    )

    assert [(entry.delivery.id, entry.late) for entry in entries] == [("b", timedelta(minutes=2)), ("a", None)]
    assert entries[1].at == NOON + timedelta(minutes=1)
    assert entries[1].changes == ()


def test_a_time_in_the_future_is_merged_as_received():
    bodies = {"a": body("SESSION_STARTED", 5), "b": body("SESSION_STOPPED", 12)}

    entries = build_entries("s", [arrived("a", 0), arrived("b", 6)], bodies, [], SKEW)

    assert [[change.field for change in entry.changes] for entry in entries] == [
        ["status", "started_at"],
        ["status", "stopped_at", "anomalies"],
    ]
