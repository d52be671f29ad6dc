"""The outbox of alerts: logged first, then sent until every destination has taken them."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert

from workers.ledger import alert_outbox
from workers.ledger.tables.alert_tables import alerts

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def conn(ledger, noon):
    with ledger.begin() as conn:
        for number in (2, 1):
            row = {"id": f"a{number}", "kind": "k", "subject": f"s{number}", "sentence": "It happened."}
            conn.execute(insert(alerts).values(**row, raised_at=noon + number * MINUTE, due_at=noon))
        yield conn


def ids(found):
    return [alert.id for alert in found]


def test_alerts_are_logged_once_oldest_first(conn, noon):
    assert alert_outbox.is_any_unlogged(conn)
    assert ids(alert_outbox.unlogged(conn, 1)) == ["a1"]
    assert ids(alert_outbox.unlogged(conn, 5)) == ["a1", "a2"]
    alert_outbox.mark_logged(conn, ["a1", "a2"], noon)
    assert not alert_outbox.is_any_unlogged(conn)
    assert alert_outbox.unlogged(conn, 5) == []


def test_an_alert_is_sent_after_it_was_logged_and_by_one_claim_at_a_time(conn, noon):
    assert not alert_outbox.is_any_due(conn, noon)
    alert_outbox.mark_logged(conn, ["a1", "a2"], noon)
    assert alert_outbox.is_any_due(conn, noon)
    assert ids(alert_outbox.claim(conn, noon, noon + MINUTE, 1)) == ["a1"]
    assert ids(alert_outbox.claim(conn, noon, noon + HOUR, 5)) == ["a2"]
    assert alert_outbox.claim(conn, noon, noon + HOUR, 5) == []
    assert ids(alert_outbox.claim(conn, noon + MINUTE, noon + HOUR, 5)) == ["a1"]


def test_destinations_that_have_taken_an_alert_are_remembered(conn, noon):
    alert_outbox.mark_logged(conn, ["a1", "a2"], noon)
    first, second = alert_outbox.claim(conn, noon, noon + HOUR, 5)
    assert first.told == ()
    alert_outbox.record_delivered(conn, [replace(first, told=("mail",)), replace(second, told=("mail", "chat"))])
    alert_outbox.reschedule(conn, ["a1", "a2"], noon + MINUTE)
    assert [alert.told for alert in alert_outbox.claim(conn, noon + MINUTE, noon + HOUR, 5)] == [
        ("mail",),
        ("mail", "chat"),
    ]


@pytest.mark.parametrize(
    "end", [alert_outbox.mark_delivered, lambda conn, ids, _now: alert_outbox.reschedule(conn, ids, None)]
)
def test_an_alert_that_is_delivered_or_suppressed_is_never_due_again(conn, noon, end):
    alert_outbox.mark_logged(conn, ["a1", "a2"], noon)
    end(conn, ["a1"], noon)
    assert ids(alert_outbox.claim(conn, noon + 9 * HOUR, noon + 10 * HOUR, 5)) == ["a2"]
