"""Many rows take as many statements as one: each is a round trip, or time under SQLite's lock."""

from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import event

from ingest.inbox.downtime import Downtime
from workers.ledger import charging_keys, downtimes, pushes, session_polls, sessions
from workers.ledger.pushes import PushUpdate
from workers.ledger.session_polls import PollSchedule, PollState
from workers.ledger.states import PushState
from workers.ledger.tables.reconciliation_tables import PollOutcome

HOUR = timedelta(hours=1)


@contextmanager
def statements(engine):
    """Collect the statements that are sent to the database meanwhile."""
    sent = []

    def record(_conn, _cursor, statement, _parameters, _context, _many):
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", record)
    yield sent
    event.remove(engine, "before_cursor_execute", record)


def record_polls(conn, noon, names):
    state = PollState(PollOutcome.OPEN, 1, noon, "STARTED", noon, noon)
    session_polls.record(conn, dict.fromkeys(names, state), noon)


def record_keys(conn, noon, names):
    charging_keys.record_session_keys(conn, dict.fromkeys(names, "04a1"), noon)


def import_downtimes(conn, noon, names):
    downtimes.import_new(conn, [Downtime(noon, noon + HOUR, name) for name in names], noon)


def mark_pushes(conn, noon, names):
    pushes.mark(conn, [PushUpdate(id=name, attempt=1, state=PushState.SENT, sent_at=noon) for name in names])


@pytest.mark.parametrize("work", [record_polls, record_keys, import_downtimes, mark_pushes])
def test_many_rows_are_one_statement(ledger, noon, work):
    with ledger.begin() as conn, statements(ledger.engine) as sent:
        work(conn, noon, [f"name-{number}" for number in range(200)])
    assert len([each for each in sent if each.startswith(("INSERT", "UPDATE"))]) == 1


def test_many_sessions_are_claimed_and_released_in_one_statement_each(ledger, noon, says):
    names = [f"s{number}" for number in range(40)]
    schedule = PollSchedule(after=HOUR, longest=HOUR, give_up_after=1000 * HOUR)
    with ledger.begin() as conn:
        sessions.merge(conn, {name: says("STARTED") for name in names})
        record_polls(conn, noon, names)
        conn.exec_driver_sql("UPDATE sessions SET user_id = 'user1'")
        conn.exec_driver_sql("UPDATE sessions SET updated_at = (SELECT max(read_at) FROM rereads)")
    with ledger.begin() as conn, statements(ledger.engine) as sent:
        claimed = session_polls.claim(conn, noon + HOUR, HOUR, 50, schedule)
        session_polls.release(conn, claimed, noon + HOUR)
    assert len(claimed) == 40
    assert len([each for each in sent if each.startswith("UPDATE")]) == 2
    with ledger.begin() as conn:
        assert {state.next_at for state in session_polls.states(conn, names).values()} == {noon + HOUR}
