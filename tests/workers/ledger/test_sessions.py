"""Session records: merged under a lock, so that nothing that was told is lost."""

from dataclasses import replace
from datetime import timedelta

from handlers.kit.session import DriverAssignment, FeeNotice, Session
from workers.ledger import sessions
from workers.ledger.tables.core import sessions as table


def merge(ledger, folds):
    with ledger.begin() as conn:
        return sessions.merge(conn, folds)


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


def test_what_a_record_says_can_be_queried(ledger, says, noon):
    def fold(session):
        told = says("COMPLETE", 5)(says("STOPPED", 3)(says("STARTED", 1)(session)))
        fees = {"BLOCKING": FeeNotice(noon, noon + timedelta(minutes=10), "event")}
        return replace(
            told,
            users={"user \U0001f50c": DriverAssignment(noon, "event"), "": DriverAssignment(noon, "event")},
            fees=fees,
        )

    merge(ledger, {"s1": fold})
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


def test_a_session_of_which_nothing_is_known_gets_no_row(ledger):
    assert merge(ledger, {"s1": lambda session: session}) == {"s1": Session.empty("s1")}
    assert get(ledger, "s1") is None
    assert merge(ledger, {}) == {}


def test_workers_with_news_of_the_same_sessions_lose_none_of_it(ledger, says, noon):
    def work(conn, number):
        order = range(20) if number % 2 else reversed(range(20))
        return sessions.merge(conn, {f"s{session}": says(f"STATUS_{number}", number) for session in order})

    for _ in range(3):
        ledger.at_once(work, 6)
    for session in range(20):
        merged = get(ledger, f"s{session}")
        assert set(merged.statuses) == {f"STATUS_{number}" for number in range(6)}
        assert merged.statuses["STATUS_5"].last_at == noon + timedelta(minutes=5)


def test_a_session_deleted_while_it_is_merged_begins_anew(ledger, says, monkeypatch):
    merge(ledger, {"s1": says("STARTED")})

    def none_inserted(conn, *_):  # what was there when it was looked for has gone when it is to be locked
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
