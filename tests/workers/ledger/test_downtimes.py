"""Downtimes and routine windows: imported once, claimed by one clock, and backfilled user by user."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from handlers.kit.channel import Device
from ingest.inbox.downtime import Downtime
from workers.ledger import devices, downtimes, sessions
from workers.ledger.downtimes import BackfillProgress
from workers.ledger.tables.core_tables import sessions as session_table
from workers.ledger.tables.reconciliation_tables import ROUTINE

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def add(conn, noon, *spans, inbox="here", noticed_at=None):
    found = [Downtime(noon + begin * HOUR, noon + end * HOUR, inbox) for begin, end in spans]
    return downtimes.import_new(conn, found, noticed_at or noon)


def test_of_downtimes_reported_repeatedly_the_new_ones_are_returned(ledger, noon):
    first, second, third = (
        Downtime(noon + number * MINUTE, noon + (number + 1) * MINUTE, "here") for number in range(3)
    )
    there = Downtime(first.closed_at, first.opened_at, "there")
    with ledger.begin() as conn:
        assert downtimes.import_new(conn, [], noon) == []
        assert downtimes.import_new(conn, [second, first], noon) == [first, second]
        assert downtimes.import_new(conn, [third, second, there, first, third], noon + MINUTE) == [there, third]
        assert {(row.inbox, row.closed_at) for row in downtimes.find(conn)} == {
            (each.inbox, each.closed_at) for each in (first, second, third, there)
        }


def test_downtimes_noticed_together_and_close_together_are_one_window(ledger, noon):
    with ledger.begin() as conn:
        add(conn, noon, (-2, -1), (1, 2), (30, 31))
        add(conn, noon, (0, 5), inbox="there")
        add(conn, noon, (0, 9), inbox="later", noticed_at=noon + MINUTE)
        window = downtimes.claim(conn, noon, HOUR)
        assert (window.closed_at, window.opened_at) == (noon - 2 * HOUR, noon + 5 * HOUR)
        assert not window.is_routine
        assert downtimes.claim(conn, noon, HOUR).opened_at == noon + 9 * HOUR
        assert downtimes.claim(conn, noon, HOUR).closed_at == noon + 30 * HOUR
        assert downtimes.claim(conn, noon, HOUR) is None
        assert downtimes.claim(conn, noon + HOUR, HOUR) == window


def test_progress_is_added_up_and_continued_by_the_next_claim(ledger, noon):
    with ledger.begin() as conn:
        add(conn, noon, (0, 1))
        window = downtimes.claim(conn, noon, HOUR)
        downtimes.advance(conn, window, BackfillProgress("u1", 2), noon + 2 * HOUR)
        downtimes.advance(conn, window, BackfillProgress("u2", 0, is_failed=True), noon + 2 * HOUR)
        assert downtimes.claim(conn, noon + HOUR, HOUR) is None
        downtimes.release(conn, window, None)
        assert downtimes.claim(conn, noon + HOUR, HOUR).after_user == "u2"
        downtimes.release(conn, window, noon + HOUR)
        assert downtimes.claim(conn, noon + 9 * HOUR, HOUR) is None
        (row,) = downtimes.find(conn)
    assert (row.sessions_read, row.users_failed, row.covered_at) == (2, 1, noon + HOUR)


def test_a_routine_window_is_scheduled_once_a_period_and_comes_after_downtimes(ledger, noon):
    def routine(at):
        with ledger.begin() as conn:
            return downtimes.schedule_routine(conn, DAY, 2 * DAY, at)

    assert routine(noon)
    assert not routine(noon)  # not covered yet
    with ledger.begin() as conn:
        add(conn, noon, (0, 1))
        assert downtimes.claim(conn, noon, HOUR).inbox == "here"
        window = downtimes.claim(conn, noon, HOUR)
        midnight = noon - 12 * HOUR
        assert (window.inbox, window.closed_at, window.opened_at) == (ROUTINE, midnight - 2 * DAY, midnight)
        downtimes.release(conn, window, noon)
        assert [row.inbox for row in downtimes.find(conn)] == ["here"]
    assert not routine(noon + 11 * HOUR)
    assert routine(noon + 12 * HOUR)


def test_users_are_listed_in_byte_order_from_sessions_and_devices_with_recent_news(ledger, noon, says):
    with ledger.begin() as conn:
        sessions.merge(conn, {name: says("STARTED") for name in ("s1", "s2", "s3", "s4")})
        for name, user, at in (("s1", "a", noon), ("s2", "B", noon), ("s3", "old", noon - HOUR), ("s4", None, noon)):
            this = update(session_table).where(session_table.c.session_id == name)
            conn.execute(this.values(user_id=user, updated_at=at))
        devices.upsert(conn, "c", Device("token-c"), noon)
        devices.upsert(conn, "a", Device("token-a"), noon)
        assert downtimes.users_after(conn, None, noon, 10) == ["B", "a", "c"]
        assert downtimes.users_after(conn, "B", noon, 10) == ["a", "c"]
        assert downtimes.users_after(conn, None, noon, 1) == ["B"]


@pytest.mark.parametrize("ledger", ["postgres_ledger"], indirect=True)
def test_a_window_that_is_being_claimed_is_skipped(ledger, noon):
    with ledger.begin() as conn:
        add(conn, noon, (0, 1))
    with ledger.begin() as conn, ledger.begin() as other:
        assert downtimes.claim(conn, noon, HOUR) is not None
        assert downtimes.claim(other, noon, HOUR) is None
