"""No query of the ledger scans a whole table: it would be slower every day."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import event

from handlers.kit.context import Push
from workers.ledger import (
    alert_outbox,
    alert_queries,
    cdr_queries,
    charging_key_usage,
    deliveries,
    delivery_states,
    downtimes,
    fee_warnings,
    finished_runs,
    push_queries,
    pushes,
    recorded_runs,
    run_schedule,
    runs,
    sessions,
)
from workers.ledger.cdr_queries import CdrFilters
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.fee_warnings import WarningFilters
from workers.ledger.invariants import check_invariants, missed_handlers
from workers.ledger.pushes import NewPush
from workers.ledger.runs import RunRecord
from workers.ledger.sessions import SessionWait
from workers.ledger.states import DeliveryState, Outcome, PushState
from workers.observability.ledger_metrics import read_state

IDS = ["d1", "d2"]
NO_TABLES = {"json_each", "CONSTANT", "anon_1"}  # the last one is SQLAlchemy's alias of a subquery
KEYS = [("d1", "warn"), ("d2", "warn")]


@pytest.fixture
def plans(sqlite_ledger):
    """Explain how SQLite runs each statement of a piece of work."""

    def explain(work):
        statements = []

        def record(_conn, _cursor, statement, parameters, _context, many):
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
                statements.append((statement, parameters[0] if many else parameters))

        event.listen(sqlite_ledger.engine, "before_cursor_execute", record)
        with sqlite_ledger.begin() as conn:
            work(conn)
        event.remove(sqlite_ledger.engine, "before_cursor_execute", record)
        with sqlite_ledger.begin() as conn:
            driver = conn.connection.driver_connection
            return [step[3] for each in statements for step in driver.execute(f"EXPLAIN QUERY PLAN {each[0]}", each[1])]

    sqlite_ledger.store(*map(sqlite_ledger.delivery, IDS))
    sqlite_ledger.run("d1", "warn", Outcome.WAITING)
    return explain


def works(ledger, says, noon):
    again = RunRecord(
        delivery_id="d2", handler="w", queue="q", outcome=Outcome.AGAIN, due_at=noon, waits_for="s1", finished_at=noon
    )
    ended_run = RunRecord(delivery_id="d1", handler="warn", attempts=1, outcome=Outcome.DONE, finished_at=noon)
    waits = SessionWait(session_id="s1", since=noon, was_read=True, seen=None)
    push = NewPush("d1", "warn", "log", Push("u1", "t", "b", "k"), noon)
    return {
        "store": lambda c: deliveries.store(c, [ledger.delivery()], {"d1": (DeliveryState.RUNNING, None)}),
        "settled": lambda c: deliveries.settled(c, IDS),
        "fetch": lambda c: deliveries.fetch(c, IDS),
        "get many": lambda c: deliveries.get_many(c, IDS),
        "get": lambda c: deliveries.get(c, "d1"),
        "resolve": lambda c: deliveries.resolve_id(c, "d"),
        "newest": lambda c: deliveries.find(c, DeliveryFilters(), 50),
        "since": lambda c: deliveries.find(c, DeliveryFilters(since=noon, until=noon), 50),
        "of a session": lambda c: deliveries.find(c, DeliveryFilters(session_id="s1"), 50),
        "dead ones": lambda c: deliveries.find(c, DeliveryFilters(state=DeliveryState.DEAD), 50),
        "refresh": lambda c: delivery_states.refresh_states(c, IDS),
        "merge": lambda c: sessions.merge(c, {"s1": says("STARTED"), "s2": says("STARTED")}),
        "session": lambda c: sessions.get(c, "s1"),
        "latest": lambda c: sessions.latest(c, 50),
        "without an operator": lambda c: sessions.without_operator(c, noon, 50),
        "insert runs": lambda c: runs.insert_runs(c, [again]),
        "existing runs": lambda c: recorded_runs.existing(c, IDS),
        "claim": lambda c: runs.claim(c, "warn", [("d1", 1)], "job", noon),
        "finish": lambda c: runs.finish(c, "warn", [ended_run]),
        "session waits": lambda c: sessions.has_changed(c, [waits]),
        "due groups": lambda c: run_schedule.due_groups(c, noon),
        "due": lambda c: run_schedule.due(c, ("urgent", "warn"), noon, 50),
        "jobs waiting": run_schedule.job_counts,
        "deferred": lambda c: run_schedule.defer(c, run_schedule.enqueued(c), now=noon, queue=None),
        "mark enqueued": lambda c: run_schedule.set_jobs(c, dict.fromkeys(KEYS, "job")),
        "enqueued": run_schedule.enqueued,
        "running": run_schedule.running,
        "crashed": lambda c: run_schedule.fail_crashed(
            c, run_schedule.enqueued(c), now=noon, deaths_allowed=3, error="died"
        ),
        "released": lambda c: run_schedule.release(c, run_schedule.enqueued(c), now=noon, reason="ended"),
        "wake": lambda c: run_schedule.wake_waiting(c, ["s1"], noon),
        "expired": lambda c: run_schedule.expire(c, noon),
        "reopen": lambda c: finished_runs.reopen(c, IDS, "warn", noon),
        "reopen for a new driver": lambda c: finished_runs.reopen_for_new_driver(c, ["s1"], ["warn"], noon),
        "delete finished": lambda c: finished_runs.delete_finished(c, IDS, "warn"),
        "unpublished": lambda c: finished_runs.unpublished_dead(c, "dead-", 50),
        "push": lambda c: pushes.insert(c, [push]),
        "push due": lambda c: pushes.is_any_due(c, "log", noon),
        "push unneeded": lambda c: pushes.expire_unneeded(c, "log", noon),
        "push to an unknown channel": lambda c: pushes.expire_unknown_channels(c, ["log"], noon),
        "push claimed": lambda c: pushes.claim(c, "log", noon, noon - noon, limit=50),
        "pushes to retry": lambda c: push_queries.find_given_up(c, since=noon),
        "push retry": lambda c: push_queries.retry(c, IDS, [PushState.DEAD], noon),
        "push lease": lambda c: pushes.extend_lease(c, [("p1", 1)], noon),
        "pushes": lambda c: pushes.find(c, limit=50),
        "pushes of a session": lambda c: pushes.find(c, session_id="s1"),
        "warnings": lambda c: list(fee_warnings.find(c, WarningFilters(), noon)),
        "warnings of a session": lambda c: list(fee_warnings.find(c, WarningFilters(session_id="s1"), noon)),
        "warnings of a user": lambda c: list(fee_warnings.find(c, WarningFilters(user_id="U1"), noon)),
        "long running": lambda c: alert_queries.long_running_sessions(c, "k", noon, noon - noon),
        "ended sessions": lambda c: alert_queries.ended_sessions(c, "k"),
        "without a CDR": lambda c: alert_queries.sessions_without_cdr(c, "k", noon, noon - noon),
        "with a CDR": lambda c: alert_queries.sessions_with_cdr(c, "k"),
        "conflicts": lambda c: alert_queries.cdr_conflicts(c, "k", noon),
        "implausible CDRs": lambda c: alert_queries.implausible_cdrs(c, "k", noon),
        "settled CDR conflicts": lambda c: alert_queries.settled_cdr_conflicts(c, "k"),
        "settled implausible CDRs": lambda c: alert_queries.settled_implausible_cdrs(c, "k"),
        "repeated CDRs": lambda c: list(cdr_queries.find(c, CdrFilters(repeated=True), 50)),
        "CDRs": lambda c: list(cdr_queries.find(c, CdrFilters(), 50)),
        "CDRs of a session": lambda c: list(cdr_queries.find(c, CdrFilters(session_id="s1"), 50)),
        "CDRs of a request": lambda c: list(cdr_queries.find(c, CdrFilters(request_id="r1"), 50)),
        "CDRs of a key": lambda c: list(cdr_queries.find(c, CdrFilters(keys=["04a1", "a104"]), 50)),
        "CDRs in conflict": lambda c: list(cdr_queries.find(c, CdrFilters(in_conflict=True), 50)),
        "CDR summary": lambda c: cdr_queries.summary(c, CdrFilters(since=noon)),
        "CDRs unreadable": lambda c: cdr_queries.unreadable(c, since=noon),
        "unreadable": lambda c: alert_queries.unreadable_backlog(c, "events", noon, noon),
        "handlers of dead": alert_queries.handlers_of_dead,
        "dead": lambda c: alert_queries.dead_letter_backlog(c, "warn", noon),
        "last event": lambda c: alert_queries.last_event_at(c, noon),
        "oldest delivery": alert_queries.oldest_delivery_at,
        "events": lambda c: alert_queries.count_events(c, noon, timedelta(hours=1), 50),
        "oldest due": lambda c: run_schedule.oldest_due(c, noon),
        "late pushes": lambda c: alert_queries.late_pushes(c, noon),
        "dead pushes": lambda c: alert_queries.dead_pushes(c, noon),
        "users": lambda c: downtimes.users_after(c, "u1", noon, 50),
        "charging keys": lambda c: charging_key_usage.find(c, limit=50),
        "one charging key": lambda c: charging_key_usage.find(c, keys=["04a1"]),
        "open alerts": lambda c: (alert_queries.open_subjects(c, "k"), alert_queries.last_resolved_at(c, "k", "s1")),
        "metrics": lambda c: read_state(c, noon),
        "received at": lambda c: deliveries.received_at(c, IDS),
        "alerts to log": lambda c: (alert_outbox.is_any_unlogged(c), alert_outbox.unlogged(c, 50)),
        "alerts without destinations": lambda c: alert_outbox.mark_due_delivered(c, noon),
        "alerts to send": lambda c: (alert_outbox.is_any_due(c, noon), alert_outbox.claim(c, noon, noon, 50)),
    }


def test_every_query_finds_its_rows_by_an_index(sqlite_ledger, plans, says, noon):
    for name, work in works(sqlite_ledger, says, noon).items():
        assert [step for step in plans(work) if scans_a_table(step)] == [], name


def test_failing_runs_are_found_among_all_runs(sqlite_ledger, plans, noon):
    failing = RunRecord(
        delivery_id="d2", handler="w", queue="q", outcome=Outcome.AGAIN, due_at=noon, error="KeyError: 1", attempts=1
    )
    with sqlite_ledger.begin() as ledger:
        runs.insert_runs(ledger, [failing])
    steps = plans(alert_queries.failing_runs)
    assert [step for step in steps if scans_a_table(step)] == []
    assert all("INDEX runs_failing" in step for step in steps if "runs" in step)


def test_enqueued_runs_are_found_among_all_due_runs(sqlite_ledger, plans, says, noon):
    (step,) = plans(works(sqlite_ledger, says, noon)["enqueued"])
    assert "INDEX runs_offered" in step


def test_metrics_read_only_what_is_open(sqlite_ledger, plans, says, noon):
    steps = plans(works(sqlite_ledger, says, noon)["metrics"])
    tables = [step for step in steps if re.match(r"(SCAN|SEARCH) (deliveries|runs|pushes|alerts) ", step)]
    indexes = {re.search(r"INDEX (\w+)", step)[1] for step in tables}
    assert indexes == {"deliveries_not_settled", "runs_due", "runs_dead_of", "pushes_due", "alerts_open"}
    assert not [step for step in tables if "SCAN" in step and "alerts_open" not in step]


def test_lists_of_the_newest_sort_no_table(sqlite_ledger, plans, says, noon):
    listed = works(sqlite_ledger, says, noon)
    for name in ("newest", "since", "of a session", "dead ones", "latest", "due", "pushes", "CDRs", "charging keys"):
        assert "USE TEMP B-TREE FOR ORDER BY" not in plans(listed[name]), name


@pytest.mark.parametrize("outcome", [Outcome.DEAD, Outcome.WAITING, Outcome.AGAIN, Outcome.RUNNING])
def test_the_few_deliveries_with_such_a_run_are_found_by_their_runs(plans, outcome):
    steps = plans(lambda conn: deliveries.find(conn, DeliveryFilters(outcome=outcome), 50))
    assert [step for step in steps if step.startswith("SCAN deliveries")] == []


@pytest.mark.parametrize("event", ["SESSION_FEE_INCURRING", "SESSION_FAILED", "NEVER_SEEN"])
def test_deliveries_of_an_event_that_few_sessions_have_are_found_by_an_index(plans, event):
    (step, *_) = plans(lambda conn: deliveries.find(conn, DeliveryFilters(event=event), 50))
    assert "INDEX deliveries_rare_events (event=?)" in step


def test_rows_of_two_tables_are_compared_in_the_order_of_their_ids(sqlite_ledger, plans, noon):
    """In any other order each lookup reads another page: it took ten times as long."""
    sqlite_ledger.run("d2", "warn", Outcome.DONE, started_at=noon, finished_at=noon)
    wanted = {"warn": ["SESSION_STARTED", "SESSION_STOPPED"]}
    steps = plans(lambda conn: (list(check_invariants(conn)), list(missed_handlers(conn, wanted))))
    assert {step for step in steps if step.startswith("SCAN listed")} == {
        "SCAN listed USING COVERING INDEX sqlite_autoindex_deliveries_1"
    }
    assert sum(step == "MATERIALIZE without_run" for step in steps) == 2
    assert not [
        step for step in steps if step.startswith("SEARCH deliveries USING INDEX deliveries_not_settled (state=? AND")
    ]


@pytest.mark.parametrize(
    "filters",
    [CdrFilters(user_id="u1"), CdrFilters(in_conflict=True), CdrFilters(repeated=True, with_repeats=True)],
    ids=["of a user", "in conflict", "repeated"],
)
def test_few_cdrs_are_found_without_a_look_at_all_of_them(plans, filters):
    """Each look at one searched its partners, too: of 240,000 for fifteen seconds."""
    steps = plans(lambda conn: (list(cdr_queries.find(conn, filters, 50)), cdr_queries.summary(conn, filters)))
    assert [step for step in steps if step.startswith("SCAN cdrs")] == []


def test_a_lock_in_the_order_of_keys_scans_no_index_of_keys(plans, noon):
    steps = plans(lambda conn: run_schedule.expire(conn, noon))
    assert [step for step in steps if "SCAN runs" in step] == []


def scans_a_table(step):
    return step.startswith("SCAN") and " USING " not in step and step.split()[1] not in NO_TABLES
