"""Session records: merged under a lock, so that no news is lost, and no run that waits for news misses it."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from handlers.kit.session import DriverAssignment, FeeNotice, Session
from workers.ledger import run_schedule, sessions
from workers.ledger.runs import RunRecord, insert_runs
from workers.ledger.sessions import SessionWait, has_changed
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import sessions as table

NOON = datetime(2025, 6, 12, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def merge(ledger, updates):
    with ledger.begin() as conn:
        return sessions.merge(conn, updates)


def get(ledger, session_id):
    with ledger.begin() as conn:
        return sessions.get(conn, session_id)


def test_a_session_begins_with_its_first_news(ledger, says):
    assert get(ledger, "s1") is None
    merged = merge(ledger, {"s1": says("STARTED")})
    assert merged == {"s1": says("STARTED")(Session.empty("s1"))}
    assert get(ledger, "s1") == merged["s1"]


def test_news_is_added_to_what_is_known(ledger, says):
    merge(ledger, {"s1": says("STARTED", 1), "s2": says("STARTED", 2)})
    merged = merge(ledger, {"s1": says("STOPPED", 5), "s3": says("COMPLETE", 9)})
    assert {key: session.status for key, session in merged.items()} == {"s1": "STOPPED", "s3": "COMPLETE"}
    assert set(get(ledger, "s1").statuses) == {"STARTED", "STOPPED"}
    assert get(ledger, "s2").status == "STARTED"


def test_the_columns_of_a_record_can_be_queried(ledger, says, noon):
    def update(session):
        session = says("COMPLETE", 5)(says("STOPPED", 3)(says("STARTED", 1)(session)))
        fees = {"BLOCKING": FeeNotice(noon, noon + timedelta(minutes=10), "event")}
        return replace(
            session,
            users={"user \U0001f50c": DriverAssignment(noon, "event"), "": DriverAssignment(noon, "event")},
            fees=fees,
        )

    merge(ledger, {"s1": update})
    with ledger.begin() as conn:
        row = conn.execute(table.select()).one()
    assert (row.user_id, row.status, row.fee_type) == ("user \U0001f50c", "COMPLETE", "BLOCKING")
    assert [row.started_at, row.stopped_at, row.completed_at, row.fee_will_apply_from] == [
        noon + timedelta(minutes=minute) for minute in (1, 3, 5, 10)
    ]
    assert row.anomalies == ["two_users"]


def test_a_session_that_has_not_changed_is_not_written(ledger, says):
    def written_at():
        with ledger.begin() as conn:
            return conn.execute(table.select()).one().updated_at

    merge(ledger, {"s1": says("STARTED")})
    before = written_at()
    assert merge(ledger, {"s1": says("STARTED")})["s1"].status == "STARTED"
    assert written_at() == before


def test_an_empty_session_gets_no_row(ledger):
    assert merge(ledger, {"s1": lambda session: session}) == {"s1": Session.empty("s1")}
    assert get(ledger, "s1") is None
    assert merge(ledger, {}) == {}


def test_concurrent_merges_of_the_same_sessions_lose_no_news(ledger, says, noon):
    def work(conn, number):
        order = range(20) if number % 2 else reversed(range(20))
        return sessions.merge(conn, {f"s{session}": says(f"STATUS_{number}", number) for session in order})

    for _ in range(3):
        ledger.at_once(work, 6)
    for session in range(20):
        merged = get(ledger, f"s{session}")
        assert set(merged.statuses) == {f"STATUS_{number}" for number in range(6)}
        assert merged.statuses["STATUS_5"].last_at == noon + timedelta(minutes=5)


def test_a_session_deleted_during_a_merge_is_inserted_again(ledger, says, monkeypatch):
    merge(ledger, {"s1": says("STARTED")})

    def none_inserted(conn, *_):  # the row is deleted between the SELECT and the lock
        monkeypatch.undo()
        conn.execute(table.delete())
        return {}

    monkeypatch.setattr(sessions, "_insert", none_inserted)
    merge(ledger, {"s1": says("STOPPED")})
    assert set(get(ledger, "s1").statuses) == {"STOPPED"}


def test_the_latest_news_comes_first(ledger, says):
    for number in range(3):
        merge(ledger, {f"s{number}": says("STARTED")})
    with ledger.begin() as conn:
        assert [session.session_id for session in sessions.latest(conn, 2)] == ["s2", "s1"]


@pytest.fixture
def merge_news(ledger, says):
    def merge_status(status="STARTED"):
        with ledger.begin() as conn:
            return sessions.merge(conn, {"s1": says(status)})["s1"]

    return merge_status


def wait_for(conn, seen):
    """Record a run that waits for the session, as a worker does; return whether there was news."""
    wait = SessionWait(session_id="s1", since=NOON, was_read=True, seen=seen)
    (is_news,) = has_changed(conn, [wait])
    later = RunRecord(
        delivery_id="d1",
        handler="warn",
        queue="urgent",
        outcome=Outcome.AGAIN,
        due_at=NOON if is_news else NOON + HOUR,
        waits_for="s1",
    )
    insert_runs(conn, [later])
    return is_news


def test_a_session_unchanged_since_its_handler_read_it_has_no_news(ledger, merge_news):
    with ledger.begin() as conn:
        assert has_changed(conn, []) == []
        assert has_changed(conn, [SessionWait(session_id="s1", since=NOON, was_read=True, seen=None)]) == [False]
        assert conn.scalars(select(table.c.session_id)).all() == []
    seen = merge_news()
    with ledger.begin() as conn:
        assert has_changed(conn, [SessionWait(session_id="s1", since=NOON, was_read=True, seen=seen)]) == [False]


def test_a_session_changed_since_its_handler_read_it_is_news_whatever_the_clocks(ledger, merge_news):
    first = merge_news()
    merge_news("STOPPED")
    ahead = NOON.replace(year=2100)
    of = {"session_id": "s1", "since": ahead, "was_read": True}
    with ledger.begin() as conn:
        conn.execute(update(table).values(updated_at=NOON))
        assert has_changed(conn, [SessionWait(**of, seen=None), SessionWait(**of, seen=first)]) == [True, True]
        conn.execute(table.delete())
        assert has_changed(conn, [SessionWait(**of, seen=None), SessionWait(**of, seen=first)]) == [False, True]


@pytest.mark.parametrize("minute", [-1, 1])
def test_without_a_read_the_times_decide(ledger, merge_news, minute):
    merge_news()
    with ledger.begin() as conn:
        conn.execute(update(table).values(updated_at=NOON + timedelta(minutes=minute)))
        wait = SessionWait(session_id="s1", since=NOON, was_read=False, seen=None)
        assert has_changed(conn, [wait]) == [minute > 0]


class Other:
    """A transaction in a thread of its own, which another one may block."""

    def __init__(self, ledger, work):
        self._failure = None
        self.result = None
        self.pid = None
        self._thread = threading.Thread(target=self._run, args=(ledger, work))
        self._thread.start()

    def _run(self, ledger, work):
        try:
            with ledger.begin() as conn:
                self.pid = conn.connection.driver_connection.info.backend_pid
                self.result = work(conn)
        except Exception as failure:  # noqa: BLE001 - raised when it is joined
            self._failure = failure

    def is_blocked(self, ledger):
        with ledger.begin() as conn:
            return conn.scalar(select(func.cardinality(func.pg_blocking_pids(self.pid)) > 0))

    def join(self):
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.result


@pytest.fixture
def meanwhile(postgres_ledger, until):
    """Begin a transaction beside that of the test, and return once the test's blocks it."""

    def begin(work):
        other = Other(postgres_ledger, work)
        until(lambda: other.pid is not None and other.is_blocked(postgres_ledger))
        return other

    return begin


@pytest.mark.parametrize("ledger", ["postgres_ledger"], indirect=True)
@pytest.mark.parametrize("is_known", [True, False])
def test_news_that_is_being_merged_is_waited_for(ledger, merge_news, says, meanwhile, is_known):
    seen = merge_news() if is_known else None
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": says("STOPPED")})
        assert run_schedule.wake_waiting(conn, ["s1"], NOON) == 0
        worker = meanwhile(lambda other: wait_for(other, seen))
    assert worker.join() is True


@pytest.mark.parametrize("ledger", ["postgres_ledger"], indirect=True)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_merge_that_comes_later_wakes_the_run(ledger, merge_news, says, meanwhile, is_known):
    seen = merge_news() if is_known else None

    def merge_and_wake(conn):
        sessions.merge(conn, {"s1": says("STOPPED")})
        return run_schedule.wake_waiting(conn, ["s1"], NOON)

    with ledger.begin() as conn:
        assert not wait_for(conn, seen)
        worker = meanwhile(merge_and_wake)
    assert worker.join() == 1
    with ledger.begin() as conn:
        assert sessions.get(conn, "s1") != seen
