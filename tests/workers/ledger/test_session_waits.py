"""Runs that begin to wait for a session, and news of it that come at the same moment: none is missed."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from workers.ledger import run_schedule
from workers.ledger import sessions as records
from workers.ledger.runs import RunRecord, insert_runs
from workers.ledger.sessions import SessionWait, has_changed
from workers.ledger.states import Outcome
from workers.ledger.tables.core import sessions

NOON = datetime(2025, 6, 12, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def merge(ledger, says):
    def tell(status="STARTED"):
        with ledger.begin() as conn:
            return records.merge(conn, {"s1": says(status)})["s1"]

    return tell


def wait_for(conn, seen):
    """Record a run that waits for the session, as a worker does; say whether there was news."""
    awaited = SessionWait(session_id="s1", since=NOON, was_read=True, seen=seen)
    (is_news,) = has_changed(conn, [awaited])
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


def test_a_session_as_its_handler_saw_it_has_no_news(ledger, merge):
    with ledger.begin() as conn:
        assert has_changed(conn, []) == []
        assert has_changed(conn, [SessionWait(session_id="s1", since=NOON, was_read=True, seen=None)]) == [False]
        assert conn.scalars(select(sessions.c.session_id)).all() == []
    seen = merge()
    with ledger.begin() as conn:
        assert has_changed(conn, [SessionWait(session_id="s1", since=NOON, was_read=True, seen=seen)]) == [False]


def test_what_differs_from_what_the_handler_saw_is_news_whatever_the_clocks_say(ledger, merge):
    first = merge()
    merge("STOPPED")
    ahead = NOON.replace(year=2100)
    of = {"session_id": "s1", "since": ahead, "was_read": True}
    with ledger.begin() as conn:
        conn.execute(update(sessions).values(updated_at=NOON))
        assert has_changed(conn, [SessionWait(**of, seen=None), SessionWait(**of, seen=first)]) == [True, True]
        conn.execute(sessions.delete())
        assert has_changed(conn, [SessionWait(**of, seen=None), SessionWait(**of, seen=first)]) == [False, True]


@pytest.mark.parametrize("minute", [-1, 1])
def test_where_the_handler_did_not_look_the_times_tell(ledger, merge, minute):
    merge()
    with ledger.begin() as conn:
        conn.execute(update(sessions).values(updated_at=NOON + timedelta(minutes=minute)))
        awaited = SessionWait(session_id="s1", since=NOON, was_read=False, seen=None)
        assert has_changed(conn, [awaited]) == [minute > 0]


class Other:
    """Somebody's transaction in a thread of its own, which another one may hold up."""

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
        except Exception as failure:  # noqa: BLE001 - told when it is joined
            self._failure = failure

    def is_held_up(self, ledger):
        with ledger.begin() as conn:
            return conn.scalar(select(func.cardinality(func.pg_blocking_pids(self.pid)) > 0))

    def join(self):
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.result


@pytest.fixture
def meanwhile(postgres_ledger, until):
    """Begin a transaction beside that of the test, and go on as soon as that holds it up."""

    def begin(work):
        other = Other(postgres_ledger, work)
        until(lambda: other.pid is not None and other.is_held_up(postgres_ledger))
        return other

    return begin


@pytest.mark.parametrize("ledger", ["postgres_ledger"], indirect=True)
@pytest.mark.parametrize("is_known", [True, False])
def test_news_that_is_being_merged_is_waited_for(ledger, merge, says, meanwhile, is_known):
    seen = merge() if is_known else None
    with ledger.begin() as conn:
        records.merge(conn, {"s1": says("STOPPED")})
        assert run_schedule.wake_waiting(conn, ["s1"], NOON) == 0
        worker = meanwhile(lambda other: wait_for(other, seen))
    assert worker.join() is True


@pytest.mark.parametrize("ledger", ["postgres_ledger"], indirect=True)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_merge_that_comes_later_wakes_the_run(ledger, merge, says, meanwhile, is_known):
    seen = merge() if is_known else None

    def merge_and_wake(conn):
        records.merge(conn, {"s1": says("STOPPED")})
        return run_schedule.wake_waiting(conn, ["s1"], NOON)

    with ledger.begin() as conn:
        assert not wait_for(conn, seen)
        worker = meanwhile(merge_and_wake)
    assert worker.join() == 1
    with ledger.begin() as conn:
        assert records.get(conn, "s1") != seen
