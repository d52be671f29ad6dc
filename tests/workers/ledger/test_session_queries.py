"""Sessions are listed by their last news, page by page, by their driver and by what is open."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from handlers.kit.statuses import FINAL_STATUSES
from workers.ledger import session_queries, sessions
from workers.ledger.session_queries import OPEN, OPEN_STATUSES, SessionFilters, SessionRow
from workers.ledger.tables.core_tables import sessions as table

MINUTE = timedelta(minutes=1)
STATUSES = {
    "s1": "STARTED",
    "s2": "STOP_FAILED",
    "s3": "STOPPED",
    "s4": "COMPLETE",
    "s5": "START_FAILED",
    "s6": "PAUSED",
    "s7": "STARTED",
}


@pytest.fixture
def listed(ledger, says, noon):
    """Store sessions, two of each minute, and return a function that lists their ids."""
    with ledger.begin() as conn:
        sessions.merge(conn, {key: says(status) for key, status in STATUSES.items()})
        for number, key in enumerate(STATUSES):
            values = {"updated_at": noon + number // 2 * MINUTE, "user_id": f"User{number % 3}"}
            conn.execute(update(table).where(table.c.session_id == key).values(values))

    def find(limit=None, before=None, **filters):
        with ledger.begin() as conn:
            found = list(session_queries.find(conn, SessionFilters(**filters), limit, before))
        return [row.session_id for row in found]

    return find


def test_those_with_the_latest_news_are_first(listed):
    assert listed() == ["s7", "s5", "s6", "s3", "s4", "s1", "s2"]
    assert listed(2) == ["s7", "s5"]


def test_pages_by_key_show_each_once(listed, noon):
    assert listed(2, (noon + 2 * MINUTE, "s5")) == ["s6", "s3"]
    assert listed(9, (noon + MINUTE, "s4")) == ["s1", "s2"]
    assert listed(9, (noon + MINUTE, "s4"), status=OPEN) == ["s1", "s2"]


def test_each_filter_narrows_the_list(listed, noon):
    assert listed(user_id="uSER0") == ["s7", "s4", "s1"]
    assert listed(user_id="User") == []
    assert listed(since=noon + MINUTE, until=noon + 2 * MINUTE) == ["s3", "s4"]
    assert listed(since=noon + MINUTE, status="STARTED") == ["s7"]
    assert listed(user_id="user0", status=OPEN, until=noon + MINUTE) == ["s1"]


def test_open_ones_are_those_that_have_not_ended_of_a_status_that_is_not_known_too(listed):
    assert listed(status=OPEN) == ["s7", "s6", "s1", "s2"]
    assert listed(status="STOP_FAILED") == ["s2"]
    assert not FINAL_STATUSES & set(OPEN_STATUSES)


def test_a_row_has_the_record_without_its_facts(ledger, says, noon):
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": lambda session: says("COMPLETE", 1)(says("STARTED", 2)(session))})
        conn.execute(update(table).values(updated_at=noon, user_id="driver-1"))
        (row,) = session_queries.find(conn, SessionFilters(), None)
    assert row == SessionRow(
        session_id="s1",
        user_id="driver-1",
        status=row.status,
        started_at=row.started_at,
        stopped_at=None,
        completed_at=row.completed_at,
        fee_type=None,
        fee_will_apply_from=None,
        anomalies=["started_after_complete"],
        updated_at=noon,
    )
    assert row.started_at - row.completed_at == MINUTE
    assert "driver-1" not in repr(row) + repr(SessionFilters(user_id="driver-1"))
