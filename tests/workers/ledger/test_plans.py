"""No query of the ledger reads a whole table: it would be slower with every day."""

from datetime import timedelta

import pytest
from sqlalchemy import event

from handlers.kit.context import Push
from workers.ledger import (
    alerted,
    awaited,
    cdrs,
    deliveries,
    ended,
    gaps,
    piled,
    pushes,
    runs,
    schedule,
    sessions,
    states,
    tellings,
    traffic,
    watched,
)
from workers.ledger.awaited import Awaited
from workers.ledger.cdrs import CdrFilters
from workers.ledger.deliveries import Filters
from workers.ledger.outcomes import DeliveryState, Outcome
from workers.ledger.pushes import NewPush
from workers.ledger.runs import EndedRun, NewRun

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
    waits = Awaited(session_id="s1", since=noon, has_looked=True, seen=None)
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
        "refresh": lambda c: states.refresh_states(c, IDS),
        "merge": lambda c: sessions.merge(c, {"s1": says("STARTED"), "s2": says("STARTED")}),
        "session": lambda c: sessions.get(c, "s1"),
        "latest": lambda c: sessions.latest(c, 50),
        "record": lambda c: runs.record_new(c, [again]),
        "recorded": lambda c: runs.recorded(c, IDS),
        "claim": lambda c: runs.claim(c, "warn", [("d1", 1)], "job", noon),
        "finish": lambda c: runs.finish(c, "warn", [ended_run]),
        "have news": lambda c: awaited.have_news(c, [waits]),
        "due": lambda c: schedule.due(c, noon, 50),
        "mark": lambda c: schedule.mark_offered(c, dict.fromkeys(KEYS, "job")),
        "offered": schedule.offered,
        "running": schedule.running,
        "lost": lambda c: schedule.lost(c, schedule.offered(c), now=noon, deaths_allowed=3, error="died"),
        "handed back": lambda c: schedule.handed_back(c, schedule.offered(c), now=noon, reason="ended"),
        "wake": lambda c: schedule.wake(c, ["s1"], noon),
        "overdue": lambda c: schedule.overdue(c, noon),
        "reopen": lambda c: ended.reopen(c, IDS, "warn", noon),
        "withdraw": lambda c: ended.withdraw(c, IDS, "warn"),
        "unfiled": lambda c: ended.unfiled(c, "dead-", 50),
        "push": lambda c: pushes.add(c, [push]),
        "push due": lambda c: pushes.is_any_due(c, "log", noon),
        "push needless": lambda c: pushes.end_needless(c, "log", noon),
        "push unnamed": lambda c: pushes.end_unnamed(c, ["log"], noon),
        "push claimed": lambda c: pushes.claim(c, "log", noon, noon - noon, limit=50),
        "push held": lambda c: pushes.hold(c, [("p1", 1)], noon),
        "pushes": lambda c: pushes.find(c, limit=50),
        "pushes of a session": lambda c: pushes.find(c, session_id="s1"),
        "running for long": lambda c: watched.running_for_long(c, "k", noon, noon - noon),
        "not running": lambda c: watched.not_running(c, "k"),
        "without a CDR": lambda c: watched.without_cdr(c, "k", noon, noon - noon),
        "with a CDR": lambda c: watched.with_cdr(c, "k"),
        "conflicts": lambda c: watched.conflicts(c, "k", noon),
        "CDRs": lambda c: list(cdrs.find(c, CdrFilters(), 50)),
        "CDRs of a session": lambda c: list(cdrs.find(c, CdrFilters(session_id="s1"), 50)),
        "CDRs of a request": lambda c: list(cdrs.find(c, CdrFilters(request_id="r1"), 50)),
        "CDRs of a key": lambda c: list(cdrs.find(c, CdrFilters(keys=["04a1", "a104"]), 50)),
        "CDRs in conflict": lambda c: list(cdrs.find(c, CdrFilters(in_conflict=True), 50)),
        "CDRs added up": lambda c: cdrs.summary(c, CdrFilters(since=noon)),
        "CDRs unreadable": lambda c: cdrs.unreadable(c, since=noon),
        "unreadable": lambda c: piled.unreadable(c, "events", noon, noon),
        "handlers of dead": piled.handlers_of_dead,
        "dead": lambda c: piled.dead(c, "warn", noon),
        "last event": lambda c: traffic.last_event_at(c, noon),
        "known since": traffic.known_since,
        "events": lambda c: traffic.count_events(c, noon, timedelta(hours=1), 50),
        "known users": lambda c: gaps.users_after(c, "u1", noon, 50),
        "alerts told": lambda c: (alerted.open_subjects(c, "k"), alerted.seen_at(c, "k", "s1")),
        "alerts to log": lambda c: (tellings.is_any_unlogged(c), tellings.unlogged(c, 50)),
        "alerts to send": lambda c: (tellings.is_any_due(c, noon), tellings.claim(c, noon, noon, 50)),
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
