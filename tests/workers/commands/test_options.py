import json
from datetime import UTC, datetime, timedelta
from time import tzset

import pytest

from handlers.kit.channel import Device
from handlers.kit.context import Push
from workers.ledger import devices, pushes
from workers.ledger.pushes import NewPush
from workers.ledger.states import Outcome
from workers.lists.time_parsing import parse_since, point_in_time

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("1.5h", timedelta(minutes=90)),
        ("3d", timedelta(days=3)),
        ("1w", timedelta(days=7)),
        ("2026-05-04T11:00:00Z", timedelta(hours=1)),
        ("2026-05-04T13:00:00+02:00", timedelta(hours=1)),
        (" 2026-05-04 11:59Z", timedelta(minutes=1)),
    ],
)
def test_a_time_is_iso_8601_or_how_long_ago(text, ago):
    assert point_in_time(text, now=NOW) == NOW - ago


def test_a_time_without_a_zone_is_on_this_machines_clock():
    assert point_in_time("2026-05-04T11:00", now=NOW) == datetime(2026, 5, 4, 11).astimezone()


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("today", "2026-05-04T00:00-04:00"),
        ("Yesterday", "2026-05-03T00:00-04:00"),
        ("09:30", "2026-05-04T09:30-04:00"),
        ("9:30:15", "2026-05-04T09:30:15-04:00"),
        ("18:00", "2026-05-04T18:00-04:00"),
        ("2025-11-28", "2025-11-28T00:00-05:00"),
    ],
)
def test_a_day_and_a_time_of_day_are_on_this_machines_clock(text, local, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    tzset()
    try:
        assert point_in_time(text, now=NOW) == datetime.fromisoformat(local)
    finally:
        monkeypatch.undo()
        tzset()


def test_since_a_time_of_day_is_since_the_last_one_that_has_been():
    for hour in range(24):
        now = datetime.now(UTC)
        assert now - timedelta(days=1, hours=1, minutes=1) < parse_since(f"{hour}:00") <= datetime.now(UTC)
        assert parse_since(f"{hour}:00").astimezone().hour == hour


@pytest.mark.parametrize("text", ["", "tomorrow", "25:00", "18:60", "10", "10x", "99999999999999d", "2026-13-01"])
def test_anything_else_is_refused(text):
    with pytest.raises((ValueError, OverflowError)):
        point_in_time(text, now=NOW)


@pytest.fixture
def of_a_driver(node, event, noon):
    """Store what there is of two drivers: a delivery that failed, a push and a device each."""
    for user in ("driver@example.com", "other@example.com"):
        started = event("SESSION_STARTED", f"S-{user}", userId=user)
        id_ = node.settle(started, ("thank", Outcome.DEAD), error="it failed")
        node.keep(event("SESSION_STOPPED", f"S-{user}", at=noon + timedelta(minutes=1), userId=user))
        with node.engine.begin() as conn:
            pushes.insert(conn, [NewPush(id_, "thank", "log", Push(user, "t", "b", "k"), noon)])
            devices.upsert(conn, user, Device(f"token-{user}"), noon)
    return node


@pytest.mark.parametrize(("command", "rows"), [("deliveries", 2), ("dead", 1), ("pushes", 1), ("devices", 1)])
def test_a_driver_is_found_in_any_case_in_every_list(of_a_driver, command, rows):
    everything = of_a_driver.rows(command)
    found = of_a_driver.rows(command, "--user", "Driver@Example.com")
    assert (len(everything), len(found)) == (2 * rows, rows)
    assert "other@" not in json.dumps(found)
    assert of_a_driver.rows(command, "--user", "driver") == []


@pytest.mark.parametrize(
    "command", ["alerts", "authorizations", "cdrs", "dead", "deliveries", "devices", "pushes", "quarantine", "warnings"]
)
def test_every_list_takes_a_span_of_time(of_a_driver, command):
    assert of_a_driver.rows(command, "--since", "2026-05-05", "--until", "2026-05-06") == []
    of_a_driver.run(command, "--since", "yesterday", "--until", "18:00")
