"""No query of the ledger reads a whole table: it would be slower with every day."""

from datetime import timedelta

import pytest
from sqlalchemy import event

from handlers.kit.context import Push
from workers.ledger import (
    alert_outbox,
    alert_queries,
    backlogs,
    cdr_queries,
    deliveries,
    delivery_states,
    downtimes,
    finished_runs,
    pushes,
    recent_traffic,
    run_schedule,
    runs,
    session_waits,
    sessions,
    stale_sessions,
)
from workers.ledger.cdr_queries import CdrFilters
from workers.ledger.deliveries import Filters
from workers.ledger.pushes import NewPush
from workers.ledger.runs import EndedRun, NewRun
from workers.ledger.session_waits import SessionWait
from workers.ledger.states import DeliveryState, Outcome

IDS = ["d1", "d2"]
NO_TABLES = {"json_each", "CONSTANT", "anon_1"}  # the last one is what SQLAlchemy calls a part of a statement
KEYS = [("d1", "warn"), ("d2", "warn")]


@pytest.fixture
def plans(sqlite_ledger):
    """What SQLite does for each statement of a piece of work."""

    def explain(work):
        asked = []

        def note(_conn, _cursor, statement, parameters, _context, many):
            if statement.startswith(("SELECT", "UPDATE", "DELETE")):
                asked.append((statement, parameters[0] if many else parameters))

        event.listen(sqlite_ledger.engine, "before_cursor_execute", note)
        with sqlite_ledger.begin() as conn:
            work(conn)
        event.remove(sqlite_ledger.engine, "before_cursor_execute", note)
        with sqlite_ledger.begin() as conn:
            driver = conn.connection.driver_connection
            return [step[3] for each in asked for step in driver.execute(f"EXPLAIN QUERY PLAN {each[0]}", each[1])]

    sqlite_ledger.store(*map(sqlite_ledger.delivery, IDS))
    sqlite_ledger.run("d1", "warn", Outcome.WAITING)
    return explain


def works(ledger, says, noon):
    again = NewRun(
        delivery_id="d2", handler="w", queue="q", outcome=Outcome.AGAIN, due_at=noon, waits_for="s1", finished_at=noon
    )
    ended_run = EndedRun(delivery_id="d1", attempt=1, outcome=Outcome.DONE, finished_at=noon)
    waits = SessionWait(session_id="s1", since=noon, has_looked=True, seen=None)
    push = NewPush("d1", "warn", "log", Push("u1", "t", "b", "k"), noon)
    return {
        "store": lambda c: deliveries.store(c, [ledger.delivery()], {"d1": (DeliveryState.RUNNING, None)}),
        "settled": lambda c: deliveries.settled(c, IDS),
        "fetch": lambda c: deliveries.fetch(c, IDS),
        "lookup": lambda c: deliveries.lookup(c, IDS),
        "show": lambda c: deliveries.show(c, "d1"),
        "resolve": lambda c: deliveries.resolve_id(c, "d"),
        "newest": lambda c: deliveries.find(c, Filters(), 50),
        "since": lambda c: deliveries.find(c, Filters(since=noon, until=noon), 50),
        "of a session": lambda c: deliveries.find(c, Filters(session_id="s1"), 50),
        "dead ones": lambda c: deliveries.find(c, Filters(state=DeliveryState.DEAD), 50),
        "refresh": lambda c: delivery_states.refresh_states(c, IDS),
        "merge": lambda c: sessions.merge(c, {"s1": says("STARTED"), "s2": says("STARTED")}),
        "session": lambda c: sessions.get(c, "s1"),
        "latest": lambda c: sessions.latest(c, 50),
        "record": lambda c: runs.insert_runs(c, [again]),
        "recorded": lambda c: runs.existing(c, IDS),
        "claim": lambda c: runs.claim(c, "warn", [("d1", 1)], "job", noon),
        "finish": lambda c: runs.finish(c, "warn", [ended_run]),
        "have news": lambda c: session_waits.has_changed(c, [waits]),
        "due": lambda c: run_schedule.due(c, noon, 50),
        "mark": lambda c: run_schedule.mark_offered(c, dict.fromkeys(KEYS, "job")),
        "offered": run_schedule.enqueued,
        "running": run_schedule.running,
        "lost": lambda c: run_schedule.fail_crashed(
            c, run_schedule.enqueued(c), now=noon, deaths_allowed=3, error="died"
        ),
        "handed back": lambda c: run_schedule.release(c, run_schedule.enqueued(c), now=noon, reason="ended"),
        "wake": lambda c: run_schedule.wake_waiting(c, ["s1"], noon),
        "overdue": lambda c: run_schedule.expire(c, noon),
        "reopen": lambda c: finished_runs.reopen(c, IDS, "warn", noon),
        "withdraw": lambda c: finished_runs.delete_finished(c, IDS, "warn"),
        "unfiled": lambda c: finished_runs.unpublished_dead(c, "dead-", 50),
        "push": lambda c: pushes.add(c, [push]),
        "push due": lambda c: pushes.is_any_due(c, "log", noon),
        "push needless": lambda c: pushes.expire_unneeded(c, "log", noon),
        "push unnamed": lambda c: pushes.expire_unknown_channels(c, ["log"], noon),
        "push claimed": lambda c: pushes.claim(c, "log", noon, noon - noon, limit=50),
        "push held": lambda c: pushes.extend_lease(c, [("p1", 1)], noon),
        "pushes": lambda c: pushes.find(c, limit=50),
        "pushes of a session": lambda c: pushes.find(c, session_id="s1"),
        "running for long": lambda c: stale_sessions.long_running_sessions(c, "k", noon, noon - noon),
        "not running": lambda c: stale_sessions.ended_sessions(c, "k"),
        "without a CDR": lambda c: stale_sessions.without_cdr(c, "k", noon, noon - noon),
        "with a CDR": lambda c: stale_sessions.with_cdr(c, "k"),
        "conflicts": lambda c: stale_sessions.conflicts(c, "k", noon),
        "CDRs": lambda c: list(cdr_queries.find(c, CdrFilters(), 50)),
        "CDRs of a session": lambda c: list(cdr_queries.find(c, CdrFilters(session_id="s1"), 50)),
        "CDRs of a request": lambda c: list(cdr_queries.find(c, CdrFilters(request_id="r1"), 50)),
        "CDRs of a key": lambda c: list(cdr_queries.find(c, CdrFilters(keys=["04a1", "a104"]), 50)),
        "CDRs in conflict": lambda c: list(cdr_queries.find(c, CdrFilters(in_conflict=True), 50)),
        "CDRs added up": lambda c: cdr_queries.summary(c, CdrFilters(since=noon)),
        "CDRs unreadable": lambda c: cdr_queries.unreadable(c, since=noon),
        "unreadable": lambda c: backlogs.unreadable_backlog(c, "events", noon, noon),
        "handlers of dead": backlogs.handlers_of_dead,
        "dead": lambda c: backlogs.dead_letter_backlog(c, "warn", noon),
        "last event": lambda c: recent_traffic.last_event_at(c, noon),
        "known since": recent_traffic.oldest_delivery_at,
        "events": lambda c: recent_traffic.count_events(c, noon, timedelta(hours=1), 50),
        "known users": lambda c: downtimes.users_after(c, "u1", noon, 50),
        "alerts told": lambda c: (alert_queries.open_subjects(c, "k"), alert_queries.last_resolved_at(c, "k", "s1")),
        "alerts to log": lambda c: (alert_outbox.is_any_unlogged(c), alert_outbox.unlogged(c, 50)),
        "alerts to send": lambda c: (alert_outbox.is_any_due(c, noon), alert_outbox.claim(c, noon, noon, 50)),
    }


def test_every_query_finds_its_rows_by_an_index(sqlite_ledger, plans, says, noon):
    for name, work in works(sqlite_ledger, says, noon).items():
        assert [step for step in plans(work) if reads_all(step)] == [], name


def test_offered_runs_are_found_among_all_those_to_come(sqlite_ledger, plans, says, noon):
    (step,) = plans(works(sqlite_ledger, says, noon)["offered"])
    assert "INDEX runs_offered" in step


def test_the_newest_are_listed_without_sorting_all(sqlite_ledger, plans, says, noon):
    listed = works(sqlite_ledger, says, noon)
    for name in ("newest", "since", "of a session", "dead ones", "latest", "due", "pushes", "CDRs"):
        assert "USE TEMP B-TREE FOR ORDER BY" not in plans(listed[name]), name


def reads_all(step):
    return step.startswith("SCAN") and " USING " not in step and step.split()[1] not in NO_TABLES
