"""`webhooks top`: what the first page of the console shows, in a terminal."""

from datetime import UTC, datetime, timedelta

from workers.alerts.alerts import Alert, AlertKind, raise_alert
from workers.ledger.states import Outcome


def test_health_numbers_and_open_alerts_are_shown_once_where_there_is_no_terminal(node, event, valkey_url):
    now = datetime.now(UTC)
    for minute in range(3):
        body = event("SESSION_STARTED", f"s{minute}")
        node.settle(body, ("session_record", Outcome.DONE), received_at=now - timedelta(minutes=minute))
    with node.engine.begin() as ledger:
        raise_alert(ledger, Alert(AlertKind.SILENCE, "events", "It is quiet.\x1b[2J"), now)
    shown = node.run("top", REDIS_URL=valkey_url).stdout
    assert "3 deliveries" in shown
    assert "SESSION_STARTED 3" in shown or now.astimezone().hour == 0
    assert "silence" in shown
    assert "It is quiet." in shown
    assert "\x1b[2J" not in shown
    assert "urgent 0" in shown
    assert "█" in shown


def test_without_redis_it_says_so(node):
    assert "Redis does not answer" in node.run("top", "--once", REDIS_URL="redis://127.0.0.1:1").stdout
