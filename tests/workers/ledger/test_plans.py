"""No query of the ledger scans a whole table: it would be slower every day."""

import re
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from sqlalchemy import event

from handlers.kit.context import Push
from ingest.config.settings import load_settings
from workers.console.list_page import LISTS
from workers.ledger import (
    alert_outbox,
    alert_queries,
    cdr_queries,
    cdr_stats,
    charging_key_usage,
    dead_runs,
    deliveries,
    delivery_states,
    downtimes,
    fee_warnings,
    finished_runs,
    moot_runs,
    push_queries,
    pushes,
    recorded_runs,
    run_schedule,
    runs,
    session_queries,
    sessions,
)
from workers.ledger.cdr_queries import CdrFilters
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.fee_warnings import WarningFilters
from workers.ledger.invariants import check_invariants, missed_handlers
from workers.ledger.pushes import NewPush
from workers.ledger.runs import RunRecord
from workers.ledger.session_queries import SessionFilters
from workers.ledger.sessions import SessionWait
from workers.ledger.states import DeliveryState, Outcome, PushState
from workers.ledger.stats_queries import read_stats
from workers.lists.list_query import Selection, Stores
from workers.observability.ledger_metrics import read_state

IDS = ["d1", "d2"]
NO_TABLES = {"json_each", "CONSTANT", "anon_1"}  # the last one is SQLAlchemy's alias of a subquery
VALUES = {
    **{name: ["yesterday"] for name in ("since", "until")},
    **{name: ["never"] for name in ("user", "session", "handler", "key", "request", "policy", "channel", "actor")},
    "event": ["SESSION_STARTED", "SESSION_FEE_INCURRING"],
}
KEYS = [("d1", "warn"), ("d2", "warn")]


def statements_of(ledger, work):
    """Do a piece of work, and return its statements with their parameters."""
    statements = []

    def record(_conn, _cursor, statement, parameters, _context, many):
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            statements.append((statement, parameters[0] if many else parameters))

    event.listen(ledger.engine, "before_cursor_execute", record)
    with ledger.begin() as conn:
        work(conn)
    event.remove(ledger.engine, "before_cursor_execute", record)
    return statements


@pytest.fixture
def plans(sqlite_ledger):
    """Explain how SQLite runs each statement of a piece of work."""

    def explain(work):
        statements = statements_of(sqlite_ledger, work)
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
        "sessions": lambda c: list(session_queries.find(c, SessionFilters(since=noon, until=noon), 50)),
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
        "CDR summary": lambda c: cdr_stats.summarize(c, CdrFilters(since=noon)),
        "CDRs unreadable": lambda c: cdr_queries.unreadable(c, since=noon),
        "unreadable": lambda c: alert_queries.unreadable_backlog(c, "events", noon, noon),
        "handlers of dead": alert_queries.handlers_of_dead,
        "moot": lambda c: moot_runs.group_moot_runs(c, noon),
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


def moot_run_and_another(ledger, noon):
    """Insert a run of a handler that ended, so that its runs are looked through; return what groups them."""
    ended = RunRecord(delivery_id="d2", handler="w", queue="q", outcome=Outcome.MOOT, finished_at=noon, reason="late")
    with ledger.begin() as conn:
        runs.insert_runs(conn, [ended])
    return lambda conn: moot_runs.group_moot_runs(conn, noon + timedelta(minutes=1))


def test_moot_runs_are_read_from_the_newest_of_each_handler(sqlite_ledger, plans, noon):
    steps = plans(moot_run_and_another(sqlite_ledger, noon))
    read = {step for step in steps if re.match("(SCAN|SEARCH) runs", step)}
    assert read == {
        "SEARCH runs USING COVERING INDEX runs_of_handler",
        "SEARCH runs USING COVERING INDEX runs_of_handler (handler>?)",
        "SEARCH runs USING INDEX runs_of_handler (handler=? AND finished_at>?)",
    }
    assert "USE TEMP B-TREE FOR ORDER BY" not in steps


def test_moot_runs_are_read_by_an_index_on_postgresql(postgres_ledger, noon):
    postgres_ledger.store(*map(postgres_ledger.delivery, IDS))
    statements = statements_of(postgres_ledger, moot_run_and_another(postgres_ledger, noon))
    with postgres_ledger.begin() as conn:
        driver = conn.connection.driver_connection
        driver.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off")
        (text, values), *_ = [each for each in statements if "LIMIT" in each[0] and "finished_at" in each[0]]
        steps = [step.strip() for (step,) in driver.execute(f"EXPLAIN {text}", values)]
    assert [step for step in steps if "Index Scan Backward using runs_of_handler" in step], steps


def test_enqueued_runs_are_found_among_all_due_runs(sqlite_ledger, plans, says, noon):
    (step,) = plans(works(sqlite_ledger, says, noon)["enqueued"])
    assert "INDEX runs_offered" in step


def test_metrics_read_only_what_is_open(sqlite_ledger, plans, says, noon):
    steps = plans(works(sqlite_ledger, says, noon)["metrics"])
    tables = [step for step in steps if re.match(r"(SCAN|SEARCH) (deliveries|runs|pushes|alerts) ", step)]
    indexes = {re.search(r"INDEX (\w+)", step)[1] for step in tables}
    assert indexes == {"deliveries_not_settled", "runs_due", "runs_dead_of_handler", "pushes_due", "alerts_open"}
    assert not [step for step in tables if "SCAN" in step and "alerts_open" not in step]


def test_lists_of_the_newest_sort_no_table(sqlite_ledger, plans, says, noon):
    listed = works(sqlite_ledger, says, noon)
    for name in (
        "newest",
        "since",
        "of a session",
        "dead ones",
        "latest",
        "sessions",
        "due",
        "pushes",
        "charging keys",
    ):
        assert "USE TEMP B-TREE FOR ORDER BY" not in plans(listed[name]), name
    inner, outer = [step for step in plans(listed["CDRs"]) if "ORDER BY" in step]
    assert inner == "USE TEMP B-TREE FOR RIGHT PART OF ORDER BY", "of CDRs that came at the same time"
    assert outer == "USE TEMP B-TREE FOR ORDER BY", "of those that are shown"


@pytest.mark.parametrize("outcome", [Outcome.DEAD, Outcome.WAITING, Outcome.AGAIN, Outcome.RUNNING])
def test_the_few_deliveries_with_such_a_run_are_found_by_their_runs(plans, outcome):
    steps = plans(lambda conn: deliveries.find(conn, DeliveryFilters(outcome=outcome), 50))
    assert [step for step in steps if step.startswith("SCAN deliveries")] == []


def test_the_dead_runs_of_a_handler_are_found_among_all_its_runs(sqlite_ledger, plans, noon):
    """Where a million had ended well, their index was used: 0.1 s for each look, of alert rules and pages."""
    sqlite_ledger.run("d1", "warn", Outcome.DEAD, finished_at=noon)
    dead = DeliveryFilters(outcome=Outcome.DEAD, handler="warn")
    for work in (
        lambda conn: dead_runs.group_dead_runs(conn, noon),
        lambda conn: alert_queries.dead_letter_backlog(conn, "warn", noon),
        lambda conn: deliveries.filter_matching(conn, IDS, dead),
        lambda conn: deliveries.find(conn, dead, 50),
    ):
        indexes = {match[1] for step in plans(work) if (match := re.match(r"SEARCH runs USING .*INDEX (\w+)", step))}
        assert "runs_dead_of_handler" in indexes
        assert "runs_of_handler" not in indexes


@pytest.mark.parametrize("work", ["push due", "push unneeded", "push claimed"])
def test_due_pushes_are_found_among_those_that_are_due(sqlite_ledger, plans, says, noon, work):
    """All that a channel had ever sent were read at each look: 7 ms of 22,000, and more with each push."""
    steps = plans(works(sqlite_ledger, says, noon)[work])
    assert "SEARCH pushes USING INDEX pushes_due (due_at<?)" in steps
    assert not [step for step in steps if re.match(r"SEARCH pushes USING .*\(channel=\?\)", step)]


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
    # Once, to list dead runs. For each dead delivery all of them were read: 20 minutes of 5,000,000 deliveries.
    assert sum(step == "SEARCH runs USING INDEX runs_dead_of_handler (outcome=?)" for step in steps) == 1
    assert not [
        step for step in steps if step.startswith("SEARCH deliveries USING INDEX deliveries_not_settled (state=? AND")
    ]


@pytest.mark.parametrize(
    "filters",
    [CdrFilters(user_id="u1"), CdrFilters(in_conflict=True), CdrFilters(repeated=True, with_repeats=True)],
    ids=["of a user", "in conflict", "repeated"],
)
def test_few_cdrs_are_found_without_a_look_at_all_of_them(plans, filters):
    """Each look at one searched its partners, too: of 240,000 for fifteen seconds. Partners are found in an index."""
    steps = plans(lambda conn: (list(cdr_queries.find(conn, filters, 50)), cdr_stats.summarize(conn, filters)))
    assert [step for step in steps if step.startswith("SCAN cdrs") and " COVERING INDEX " not in step] == []


def test_of_many_cdrs_that_came_again_the_newest_are_read_first(plans, monkeypatch):
    """All of them were found and then sorted, of a million deliveries in 0.1 s."""
    monkeypatch.setattr(cdr_queries, "MANY", -1)
    repeated = CdrFilters(repeated=True, with_repeats=True)
    steps = plans(lambda conn: list(cdr_queries.find(conn, repeated, 50, newest_first=True)))
    assert "SCAN cdrs USING INDEX cdrs_amounts" in steps
    assert [step for step in steps if step.startswith("USE TEMP B-TREE FOR") and "ORDER BY" in step] == [
        "USE TEMP B-TREE FOR RIGHT PART OF ORDER BY",  # of CDRs that came at the same time
        "USE TEMP B-TREE FOR ORDER BY",  # of those that are shown
    ]


def test_runs_of_a_span_are_counted_without_a_look_at_each_delivery(plans, noon):
    """33,000 deliveries of a day took 0.1 s."""
    steps = plans(lambda conn: read_stats(conn, noon, noon + timedelta(hours=1)))
    assert {
        "SEARCH runs USING INDEX runs_of_handler (handler=? AND finished_at>? AND finished_at<?)",
        "SEARCH runs USING INDEX runs_due (due_at>?)",
        "SCAN runs USING INDEX runs_running",
    } < set(steps)
    assert "SEARCH runs USING INDEX sqlite_autoindex_runs_1 (delivery_id=?)" not in steps


def test_a_lock_in_the_order_of_keys_scans_no_index_of_keys(plans, noon):
    steps = plans(lambda conn: run_schedule.expire(conn, noon))
    assert [step for step in steps if "SCAN runs" in step] == []


def selections(settings, name):
    """Yield a list newest first, its next page, and by each of its filters, with a name for each."""
    query = LISTS[name]
    given = [{}, *({each.name: text} for each in query.filters for text in each.choices or VALUES[each.name])]
    pages = [None] if query.position is None else [None, (datetime(2026, 1, 1, tzinfo=UTC), "x")]
    for texts, before in product(given, pages):
        selection = Selection(filters=query.parse(texts), limit=51, before=before)
        yield f"{name} {texts}", lambda c, chosen=selection: list(query.find(Stores(settings, c, None), chosen))


# Downtimes are few, and compared with those of this node's inbox.
LARGE_LISTS = [name for name in LISTS if name != "downtimes"]


@pytest.mark.parametrize("name", LARGE_LISTS)
def test_every_list_and_filter_reads_no_whole_table_on_sqlite(plans, tmp_path, name):
    for what, work in selections(load_settings(data_dir=tmp_path), name):
        assert [step for step in plans(work) if scans_a_table(step)] == [], what


@pytest.mark.parametrize("name", LARGE_LISTS)
def test_every_list_and_filter_has_an_index_on_postgresql(postgres_ledger, tmp_path, name):
    """Without sequential scans where there is another way: small tables are read whole, and should be."""
    for what, work in selections(load_settings(data_dir=tmp_path), name):
        statements = statements_of(postgres_ledger, work)
        with postgres_ledger.begin() as conn:
            driver = conn.connection.driver_connection
            driver.execute("SET LOCAL enable_seqscan = off")
            steps = [step for each in statements for (step,) in driver.execute(f"EXPLAIN {each[0]}", each[1])]
        assert [step for step in steps if "Seq Scan on" in step] == [], what


@pytest.mark.parametrize(
    ("name", "texts", "index"),
    [
        ("authorizations", {"decision": "EXPIRED"}, "authorizations_decision (decision=?)"),
        ("authorizations", {"policy": "never"}, "authorizations_policy (policy=?)"),
        ("pushes", {"state": "expired"}, "pushes_state (state=?)"),
        ("pushes", {"channel": "never"}, "pushes_channel (channel=?)"),
        ("sessions", {"user": "Never"}, "sessions_user (<expr>=?)"),
        ("sessions", {"status": "open"}, "sessions_open"),
        ("sessions", {"status": "STOP_FAILED", "since": "yesterday"}, "sessions_open"),
        ("devices", {"user": "Never"}, "devices_person (<expr>=?)"),
        ("warnings", {"session": "never"}, "deliveries_session (session_id=?)"),
        ("warnings", {"user": "never"}, "deliveries_session (session_id=?)"),
        ("deliveries", {"key": "next"}, "deliveries_other_keys (signed_with=?)"),
        ("deliveries", {"handler": "never"}, "sqlite_autoindex_deliveries_1 (id=?)"),
    ],
)
def test_few_rows_of_a_filter_are_found_without_a_look_at_all(plans, tmp_path, name, texts, index):
    """A filter that nothing matches is the slowest where all rows are looked at: 2.4 s of a million deliveries."""
    query = LISTS[name]
    selection = Selection(filters=query.parse(texts), limit=51)
    settings = load_settings(data_dir=tmp_path)
    steps = plans(lambda conn: list(query.find(Stores(settings, conn, None), selection)))
    assert [step for step in steps if f"INDEX {index}" in step], steps


def test_totals_of_all_cdrs_are_read_from_indexes_alone(plans):
    steps = plans(lambda conn: cdr_stats.summarize(conn, CdrFilters()))
    scans = [step for step in steps if step.startswith("SCAN cdrs")]
    assert [step for step in scans if " COVERING INDEX " not in step] == [
        "SCAN cdrs USING INDEX cdrs_without_request_id"  # which has no others
    ]
    assert len(scans) == 3
    assert "SCAN cdrs USING COVERING INDEX cdrs_totals" in scans
    assert "SEARCH cdrs USING COVERING INDEX cdrs_session (session_id>?)" in steps
    # To sort a million amounts took more than all else: only those that differ are sorted.
    summed = steps.index("SCAN cdrs USING COVERING INDEX cdrs_totals")
    assert steps[summed + 1 : summed + 3] == ["SCAN anon_1", "USE TEMP B-TREE FOR GROUP BY"]
    assert steps.count("USE TEMP B-TREE FOR GROUP BY") == 1


def test_a_page_of_a_handler_looks_at_deliveries_one_by_one_on_postgresql(postgres_ledger):
    """It listed all runs of the handler first, as it may for a replay of all: 0.1 s of a million."""
    filters = DeliveryFilters(handler="warn")
    for work, is_page in (
        (lambda conn: deliveries.find(conn, filters, 50), True),
        (lambda conn: deliveries.find_ids(conn, filters), False),
    ):
        listed = [each for each, _ in statements_of(postgres_ledger, work) if "LIKE" in each and "ORDER BY" in each]
        assert [" OFFSET " in each for each in listed] == [is_page]


def test_totals_of_a_short_span_read_no_other_cdrs(plans, noon):
    steps = plans(lambda conn: cdr_stats.totals(conn, CdrFilters(since=noon, is_brief=True)))
    read = {step for step in steps if re.match("(SCAN|SEARCH) cdrs", step)}
    assert read == {
        "SEARCH cdrs USING INDEX cdrs_amounts (received_at>?)",
        "SEARCH cdrs USING COVERING INDEX cdrs_amounts (received_at>?)",
    }


def scans_a_table(step):
    return step.startswith("SCAN") and " USING " not in step and step.split()[1] not in NO_TABLES
