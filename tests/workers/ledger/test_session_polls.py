"""Polls of sessions: which are due, who has claimed them, and which are put aside."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from ingest.config.settings import load_settings
from workers.ledger import session_polls, sessions
from workers.ledger.session_polls import PollSchedule, PollState
from workers.ledger.tables.core_tables import sessions as session_table
from workers.ledger.tables.reconciliation_tables import PollOutcome

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SCHEDULE = PollSchedule(after=10 * MINUTE, longest=HOUR, give_up_after=24 * HOUR)


@pytest.fixture
def silent(ledger, says, noon):
    """Store sessions with a driver, and let their last news be at noon."""

    def store(*names, status="STARTED"):
        with ledger.begin() as conn:
            sessions.merge(conn, {name: says(status) for name in names})
            conn.execute(update(session_table).values(user_id="driver", updated_at=noon))

    return store


def schedule(ledger, noon):
    with ledger.begin() as conn:
        return session_polls.schedule(conn, noon - MINUTE, noon, noon + 10 * MINUTE)


def claim(ledger, at, limit=50):
    with ledger.begin() as conn:
        return [due.session_id for due in session_polls.claim(conn, at, HOUR, limit, SCHEDULE)]


def state(ledger, session_id):
    with ledger.begin() as conn:
        return session_polls.states(conn, [session_id])[session_id]


@pytest.mark.parametrize(
    ("polls", "status", "minutes"),
    [(0, None, 10), (1, "STARTED", 20), (9, "STARTED", 60), (0, "WAITING_TO_START", 2), (99, "WAITING_TO_START", 60)],
)
def test_the_delay_doubles_up_to_the_longest_and_a_start_is_polled_sooner(polls, status, minutes):
    assert SCHEDULE.delay(polls, status) == minutes * MINUTE


def test_a_first_delay_longer_than_the_longest_stands():
    assert PollSchedule(after=2 * HOUR, longest=HOUR, give_up_after=24 * HOUR).delay(5) == 2 * HOUR


def test_the_schedule_is_that_of_the_settings():
    settings = load_settings(reconcile_after=MINUTE, reconcile_longest=2 * MINUTE, reconcile_for=HOUR)
    assert PollSchedule.of(settings) == PollSchedule(MINUTE, 2 * MINUTE, HOUR)


def test_an_incomplete_session_with_a_driver_is_scheduled_once(ledger, silent, noon):
    silent("s1")
    with ledger.begin() as conn:
        sessions.merge(conn, {"without a driver": lambda session: session})
    assert schedule(ledger, noon) == 1
    assert schedule(ledger, noon) == 0
    assert state(ledger, "s1") == PollState(PollOutcome.WAITING, 0, next_at=noon)


def test_a_claimed_session_is_due_again_after_the_lease_and_the_longest_silent_comes_first(ledger, silent, noon):
    silent("s1", "s2")
    with ledger.begin() as conn:
        conn.execute(
            update(session_table).where(session_table.c.session_id == "s2").values(updated_at=noon - MINUTE / 2)
        )
    schedule(ledger, noon)
    assert claim(ledger, noon + HOUR, limit=1) == ["s2"]
    assert claim(ledger, noon + HOUR) == ["s1"]
    assert claim(ledger, noon + 2 * HOUR - MINUTE) == []
    assert sorted(claim(ledger, noon + 2 * HOUR)) == ["s1", "s2"]


def test_a_claim_is_renewed_and_released_by_its_holder_only(ledger, silent, noon):
    silent("s1")
    schedule(ledger, noon)
    with ledger.begin() as conn:
        (stale,) = session_polls.claim(conn, noon + HOUR, MINUTE, 50, SCHEDULE)
        (due,) = session_polls.claim(conn, noon + HOUR + MINUTE, MINUTE, 50, SCHEDULE)
        assert session_polls.renew(conn, stale, noon + 5 * HOUR) is None
        session_polls.release(conn, [stale], noon)
        renewed = session_polls.renew(conn, due, noon + 3 * HOUR)
        assert renewed.claimed_until == noon + 3 * HOUR
        session_polls.release(conn, [renewed], noon + 2 * HOUR)
        session_polls.release(conn, [], noon)
    assert state(ledger, "s1").next_at == noon + 2 * HOUR


def test_sessions_that_need_no_poll_are_put_aside(ledger, silent, says, noon):
    silent("complete", "old", "news")
    schedule(ledger, noon)
    with ledger.begin() as conn:
        for status, minute in (("STARTED", 1), ("STOPPED", 2), ("COMPLETE", 3)):
            sessions.merge(conn, {"complete": says(status, minute)})
        conn.exec_driver_sql("UPDATE sessions SET user_id = 'driver'")
        news = session_table.c.session_id == "news"
        conn.execute(update(session_table).where(news).values(updated_at=noon + 2 * HOUR))
    assert claim(ledger, noon + 2 * HOUR) == ["old"]
    assert state(ledger, "complete").outcome is PollOutcome.NOT_NEEDED
    assert state(ledger, "news").next_at == noon + 2 * HOUR + SCHEDULE.after
    assert claim(ledger, noon + 25 * HOUR) == []
    assert state(ledger, "old").outcome is PollOutcome.GIVEN_UP


def test_a_session_put_aside_is_scheduled_again_for_news_only(ledger, silent, noon):
    silent("s1")
    with ledger.begin() as conn:
        session_polls.record(conn, {"s1": PollState(PollOutcome.GIVEN_UP, 3, noon)}, noon)
        session_polls.record(conn, {}, noon)
    assert schedule(ledger, noon) == 0
    with ledger.begin() as conn:
        conn.execute(update(session_table).values(updated_at=noon + MINUTE))
        assert session_polls.schedule(conn, noon, noon + MINUTE, noon + HOUR) == 1
    assert state(ledger, "s1") == PollState(PollOutcome.WAITING, 0, noon, next_at=noon + MINUTE)


def test_the_sessions_of_a_downtime_are_due_at_once_unless_they_are_complete(ledger, silent, noon):
    silent("waiting", "complete")
    with ledger.begin() as conn:
        later = PollState(PollOutcome.OPEN, 1, noon, "STARTED", noon, noon + 9 * HOUR)
        session_polls.record(conn, {"waiting": later, "complete": PollState(PollOutcome.COMPLETE, 1, noon)}, noon)
        assert session_polls.schedule_now(conn, noon - HOUR, noon + HOUR, noon + 2 * HOUR) == 1
    assert claim(ledger, noon + 2 * HOUR) == ["waiting"]
