"""The numbers of a span: each is counted once, and only within the span."""

from datetime import timedelta

import pytest
from sqlalchemy import insert, update

from handlers.kit.context import Push
from workers.ledger import pushes as ledger_pushes
from workers.ledger import stats_queries
from workers.ledger.pushes import NewPush
from workers.ledger.states import DeliveryState, Outcome, PushState
from workers.ledger.stats_queries import Latency, read_stats
from workers.ledger.tables.authorization_tables import authorizations
from workers.ledger.tables.core_tables import deliveries, pushes

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


@pytest.fixture
def busy(ledger, noon):
    """A ledger with five deliveries within the hour from noon, and one before it."""
    names = ["SESSION_STARTED", "SESSION_STARTED", "SESSION_FEE_INCURRING", "SESSION_STOPPED"]
    for number, name in enumerate(names):
        ledger.store(ledger.delivery(f"d{number}", event=name, received_at=noon + number * SECOND, body=b"{}"))
        ledger.run(f"d{number}", "record", Outcome.DONE, finished_at=noon + number * SECOND)
    ledger.run("d3", "thank", Outcome.DEAD, finished_at=noon + SECOND)
    ledger.store(ledger.delivery("c1", kind="cdrs", event=None, received_at=noon))
    ledger.store(ledger.delivery("old", received_at=noon - SECOND))
    ledger.run("old", "record", Outcome.DONE, finished_at=noon - SECOND)
    with ledger.begin() as conn:
        for number in range(4):
            at = noon + number * SECOND
            settled = {"settled_at": at + (number + 1) * SECOND, "state": DeliveryState.SETTLED}
            conn.execute(update(deliveries).where(deliveries.c.id == f"d{number}").values(settled))
        push = Push("u1", "Fee", "Soon", "fee")
        ledger_pushes.insert(conn, [NewPush("d2", "warn", name, push, noon + 2 * SECOND) for name in ("log", "fcm")])
        sent = {"state": PushState.SENT, "due_at": None, "sent_at": noon + 5 * SECOND}
        conn.execute(update(pushes).where(pushes.c.channel == "log").values(sent))
        usual = {"form": "plugsurfing", "repeated": False}
        conn.execute(
            insert(authorizations),
            [
                {"id": f"a{number}", "at": noon, "decision": decision, "latency_us": 1000 * number, **usual}
                for number, decision in enumerate(["ALLOWED", "ALLOWED", "BLOCKED"])
            ],
        )
    return ledger


def test_everything_in_the_span_is_counted_once(busy, noon):
    with busy.begin() as conn:
        stats = read_stats(conn, noon, noon + HOUR)
    assert stats.events == {"SESSION_STARTED": 2, "SESSION_FEE_INCURRING": 1, "SESSION_STOPPED": 1, "cdrs": 1}
    assert stats.deliveries == {"settled": 4, "running": 1}
    assert stats.runs == {"record": {"done": 4}, "thank": {"dead": 1}}
    assert sum(stats.warnings.values()) == 1
    assert stats.pushes == {"log": {"sent": 1}, "fcm": {"waiting": 1}}
    assert stats.authorizations == {"ALLOWED": 2, "BLOCKED": 1}
    assert stats.latency["received_to_settled"] == Latency(4, 2 * SECOND, 4 * SECOND)
    assert stats.latency["received_to_push"] == Latency(1, 3 * SECOND, 3 * SECOND)
    assert stats.latency["authorization"].p99 == timedelta(milliseconds=2)


def test_a_span_without_anything_has_no_numbers_and_runs_may_be_left_out(busy, noon):
    with busy.begin() as conn:
        stats = read_stats(conn, noon + HOUR, noon + 2 * HOUR)
        assert (stats.events, stats.runs, stats.pushes) == ({}, {}, {})
        assert stats.latency["received_to_settled"] == Latency(0, None, None)
        assert read_stats(conn, noon, noon + HOUR, with_runs=False).runs == {}


def test_a_run_is_counted_when_it_ended_and_one_that_is_open_when_its_delivery_came(busy, noon):
    busy.run("old", "thank", Outcome.DONE, finished_at=noon + SECOND)
    busy.run("d1", "thank", Outcome.AGAIN, finished_at=noon + HOUR + SECOND)
    busy.run("d2", "thank", Outcome.RUNNING, started_at=noon)
    busy.run("d0", "thank", Outcome.WAITING)
    with busy.begin() as conn:
        assert read_stats(conn, noon, noon + HOUR).runs["thank"] == {
            "done": 1,
            "dead": 1,
            "again": 1,
            "running": 1,
            "waiting": 1,
        }
        assert read_stats(conn, noon - HOUR, noon).runs == {"record": {"done": 1}}
        assert read_stats(conn, noon + HOUR, noon + 2 * HOUR).runs == {}


def test_latencies_are_of_the_latest(busy, noon, monkeypatch):
    monkeypatch.setattr(stats_queries, "MAX_MEASURED", 2)
    with busy.begin() as conn:
        latency = read_stats(conn, noon, noon + HOUR).latency["received_to_settled"]
    assert latency == Latency(2, 3 * SECOND, 4 * SECOND)
