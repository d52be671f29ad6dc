"""What is old goes, what must stay stays, and no batch waits for it."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from sqlalchemy import func, select, text

from handlers.kit.cdr_table import cdrs
from handlers.kit.context import Push
from ingest.config.settings import load_settings
from tests.workers.commands.conftest import delivery_of
from workers.ledger import audit_log, authorizations, charging_key_usage, deliveries, pushes
from workers.ledger.audit_log import Actor, AuditAct, AuditEntry
from workers.ledger.authorizations import DecisionRow
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.database.migrate import migrate
from workers.ledger.invariants import check_invariants
from workers.ledger.pushes import NewPush
from workers.ledger.session_polls import schedule_now
from workers.ledger.states import BodyDeletion, DeliveryState, Outcome
from workers.ledger.tables.alert_tables import alerts
from workers.ledger.tables.core_tables import deliveries as deliveries_table
from workers.ledger.tables.core_tables import runs, sessions
from workers.ledger.tables.reconciliation_tables import session_polls
from workers.privacy.retention import RULES, SLICE, RetentionTask, retention_plans
from workers.privacy.vacuum import VacuumFailed, vacuum_ledger

DAY = timedelta(days=1)
DONE = ("session_record", Outcome.DONE)


def delete(node, now, **settings):
    """Run the task as at that time, and return what it has deleted; the ledger stays consistent."""
    task = RetentionTask(node.engine, load_settings(**settings), now=lambda: now, sleep=lambda _: None)
    deleted = task.delete()
    with read_only(node.engine) as ledger:
        assert not list(check_invariants(ledger))
    return deleted


def shown(node, id_):
    with read_only(node.engine) as ledger:
        return deliveries.get(ledger, id_)


def count(node, table):
    with read_only(node.engine) as ledger:
        return ledger.scalar(select(func.count()).select_from(table))


def test_a_body_goes_and_what_became_of_the_delivery_stays(any_node, event, noon):
    id_ = any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    before = shown(any_node, id_)

    assert delete(any_node, noon + 90 * DAY) == {}
    assert delete(any_node, noon + 91 * DAY) == {"bodies": 1}

    after = shown(any_node, id_)
    assert (after.body, after.headers) == (b"", {})
    assert (after.body_deleted_at, after.body_deletion) == (noon + 91 * DAY, BodyDeletion.RETENTION)
    for name in ("id", "event", "session_id", "received_at", "state", "settled_at", "runs"):
        assert getattr(after, name) == getattr(before, name)


def test_the_same_bytes_are_known_when_the_body_is_gone(any_node, event, noon):
    body = event("SESSION_STARTED", userId="driver-7")
    id_ = any_node.settle(body, DONE)
    delete(any_node, noon + 91 * DAY)

    with any_node.engine.begin() as ledger:
        new = deliveries.store(ledger, [delivery_of(body)], {id_: (DeliveryState.RUNNING, None)})

    assert not new
    assert shown(any_node, id_).body == b""


def test_what_is_not_settled_keeps_its_body_until_it_is(any_node, event, noon):
    id_ = any_node.settle(event("SESSION_STARTED"), ("session_record", Outcome.AGAIN))

    assert delete(any_node, noon + 1000 * DAY, retain_sessions=timedelta()) == {}

    assert shown(any_node, id_).body


def test_a_dead_letter_keeps_its_body_until_it_was_run_again_or_goes_as_a_whole(any_node, event, noon):
    id_ = any_node.settle(event("SESSION_STARTED"), ("session_record", Outcome.DEAD))

    assert delete(any_node, noon + 364 * DAY) == {}
    assert shown(any_node, id_).body
    assert delete(any_node, noon + 367 * DAY)["deliveries"] == 1

    done = any_node.settle(event("SESSION_STARTED"), DONE)
    assert delete(any_node, noon + 91 * DAY)["bodies"] == 1
    assert not shown(any_node, done).body


def test_nothing_goes_where_the_limit_is_zero(any_node, event, noon):
    any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)

    never = {name: timedelta() for name in ("retain_bodies", "retain_sessions")}

    assert delete(any_node, noon + 10_000 * DAY, **never) == {}
    assert count(any_node, deliveries_table) == 1


def test_a_delivery_goes_at_last_with_its_runs_and_pushes_and_its_session(any_node, event, noon):
    id_ = any_node.settle(event("SESSION_FEE_INCURRING"), DONE)
    with any_node.engine.begin() as ledger:
        push = Push(user_id="driver-7", title="Fee", body="Soon", collapse_key="fee")
        pushes.insert(ledger, [NewPush(id_, "session_record", "log", push, noon)])
        ledger.execute(pushes.pushes.update().values(state="sent", due_at=None, sent_at=noon, attempts=1))

    deleted = delete(any_node, datetime.now(UTC) + 366 * DAY, retain_pushes=timedelta())

    assert deleted == {"deliveries": 1, "bodies": 1}
    assert count(any_node, pushes.pushes) == count(any_node, runs) == count(any_node, deliveries_table) == 0


def test_a_session_goes_a_while_after_its_last_news(any_node, event):
    any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    today = datetime.now(UTC)  # its news is as old as the row

    delete(any_node, today + 364 * DAY)
    assert count(any_node, sessions) == 1
    delete(any_node, today + 366 * DAY)
    assert count(any_node, sessions) == 0


def test_a_delivery_is_kept_for_as_long_as_an_inbox_recognizes_duplicates(any_node, event, noon):
    any_node.settle(event("SESSION_STARTED"), DONE)
    short = {"retain_bodies": DAY, "retain_deliveries": DAY, "duplicates_remembered": 8 * DAY}

    delete(any_node, noon + 8 * DAY, **short)
    assert count(any_node, deliveries_table) == 1
    delete(any_node, noon + 10 * DAY, **short)
    assert count(any_node, deliveries_table) == 0


def test_audit_entries_go_after_two_years_and_charging_records_after_ten(any_node, event, noon):
    with any_node.engine.begin() as ledger:
        audit_log.record(ledger, AuditEntry(AuditAct.BODY_VIEWED, Actor("ann", "here"), "d1"), noon)
        row = {"delivery_id": "d1", "position": 0, "identity": "r1", "content": "c", "notes": [], "document": "{}"}
        ledger.execute(cdrs.insert().values(**row, received_at=noon, recorded_at=noon))

    assert delete(any_node, noon + 729 * DAY) == {}
    assert delete(any_node, noon + 731 * DAY) == {"audit": 1}
    assert delete(any_node, noon + 3650 * DAY) == {}
    assert delete(any_node, noon + 3660 * DAY) == {"cdrs": 1}


def test_the_plan_counts_exactly_what_goes(any_node, event, noon):
    for minute in range(3):
        any_node.settle(event("SESSION_STARTED", at=noon + timedelta(minutes=minute)), DONE)
    at, settings = noon + 91 * DAY, load_settings()
    with read_only(any_node.engine) as ledger:
        plans = {plan.kind: plan.rows for plan in retention_plans(ledger, settings, at) if plan.rows}

    assert plans == delete(any_node, at) == {"bodies": 3}


def test_a_batch_is_stored_between_any_two_slices(node, event, noon):
    old = [delivery_of(event("SESSION_STARTED", at=noon + timedelta(seconds=n))) for n in range(2 * SLICE + 1)]
    with node.engine.begin() as ledger:
        deliveries.store(ledger, old, {one.id: (DeliveryState.UNREADABLE, None) for one in old})
    stored = []

    def store_another(_seconds):
        new = delivery_of(b"%d" % len(stored), received_at=noon + 90 * DAY)
        with node.engine.begin() as ledger:
            stored.extend(deliveries.store(ledger, [new], {new.id: (DeliveryState.UNREADABLE, None)}))

    task = RetentionTask(node.engine, load_settings(), now=lambda: noon + 91 * DAY, sleep=store_another)

    assert task.delete() == {"bodies": len(old)}
    assert len(stored) >= 3
    assert task.delete() == {}


def test_a_run_of_the_task_ends_when_its_time_is_over_and_the_next_one_goes_on(node, event, noon):
    node.settle(event("SESSION_STARTED"), DONE)
    task = RetentionTask(node.engine, load_settings(), now=lambda: noon + 91 * DAY)

    assert task.delete(until=float("-inf")) == {}
    assert task.delete() == {"bodies": 1}


@pytest.mark.parametrize("is_older", [False, True])
def test_a_sqlite_file_gives_disk_back(node, noon, is_older):
    if is_older:  # as older versions made it
        connection = node.engine.raw_connection()
        connection.driver_connection.execute("PRAGMA auto_vacuum = NONE")
        connection.driver_connection.execute("VACUUM")
        connection.invalidate()
        vacuum_ledger(node.engine)
    old = [delivery_of(Random(n).randbytes(10_000)) for n in range(300)]
    with node.engine.begin() as ledger:
        deliveries.store(ledger, old, {one.id: (DeliveryState.UNREADABLE, None) for one in old})

    def pages():
        with read_only(node.engine) as ledger:
            return ledger.exec_driver_sql("PRAGMA page_count").scalar_one()

    before = pages()
    delete(node, noon + 91 * DAY)

    assert pages() < before / 2


def test_a_push_that_is_still_to_be_sent_keeps_its_delivery(any_node, event, noon):
    id_ = any_node.settle(event("SESSION_FEE_INCURRING"), DONE)
    with any_node.engine.begin() as ledger:
        push = Push(user_id="driver-7", title="Fee", body="Soon", collapse_key="fee")
        pushes.insert(ledger, [NewPush(id_, "session_record", "log", push, noon)])
    short = {"retain_bodies": DAY, "retain_deliveries": DAY}

    delete(any_node, noon + 100 * DAY, **short)

    assert count(any_node, pushes.pushes) == count(any_node, deliveries_table) == 1


def test_an_alert_goes_a_while_after_it_was_resolved(any_node, noon):
    times = {"raised_at": noon, "resolved_at": noon + 300 * DAY}
    with any_node.engine.begin() as ledger:
        ledger.execute(alerts.insert().values(id="a1", kind="k", subject="s", sentence="x", **times))

    assert delete(any_node, noon + 600 * DAY) == {}
    assert delete(any_node, noon + 666 * DAY) == {"alerts": 1}


def test_a_session_that_has_had_news_since_it_was_found_stays(any_node, event):
    any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)
    (rule,) = [each for each in RULES if each.kind == "sessions"]
    with any_node.engine.begin() as ledger:
        (session_id,) = ledger.scalars(select(sessions.c.session_id))
        before = datetime.now(UTC) - DAY

        assert rule.delete(ledger, [session_id], before, datetime.now(UTC)) == 0

    assert count(any_node, sessions) == 1


def test_a_session_that_is_still_polled_stays_and_goes_when_that_is_over(any_node, event):
    any_node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    later = datetime.now(UTC) + 3 * DAY
    poll = {"session_id": "s-1", "outcome": "waiting", "enrolled_at": later, "next_at": later, "attempts": 0}
    with any_node.engine.begin() as ledger:
        ledger.execute(session_polls.insert().values(**poll))

    delete(any_node, later, retain_sessions=DAY)
    assert count(any_node, sessions) == 1

    with any_node.engine.begin() as ledger:
        ledger.execute(session_polls.update().values(outcome="given_up", next_at=None))
    delete(any_node, later, retain_sessions=DAY)
    assert count(any_node, sessions) == count(any_node, session_polls) == 0


def test_a_session_goes_though_nobody_ends_its_polls_as_without_a_key_of_the_drive_api(any_node, event, settings):
    any_node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    enrolled = datetime.now(UTC)
    with any_node.engine.begin() as ledger:
        assert schedule_now(ledger, enrolled - DAY, enrolled, enrolled) == 1

    delete(any_node, enrolled + settings.reconcile_for - DAY, retain_sessions=DAY)
    assert count(any_node, sessions) == 1

    delete(any_node, enrolled + settings.reconcile_for + DAY, retain_sessions=DAY)
    assert count(any_node, sessions) == count(any_node, session_polls) == 0


def test_the_use_of_a_charging_key_goes_when_it_was_not_asked_for_as_long_as_its_decisions_are_kept(any_node, noon):
    parts = {"form": "ocpi", "decision": "ALLOWED", "policy": None, "reason": None, "latency_us": 1}
    times = {"old": [100, 95], "used": [100, 1]}
    with any_node.engine.begin() as ledger:
        for key, days in times.items():
            rows = [DecisionRow(f"{key}{day}", noon - timedelta(days=day), **parts, key=key) for day in days]
            authorizations.insert(ledger, rows)
    delete(any_node, noon)
    with any_node.engine.begin() as ledger:
        assert [(use.key, use.decisions) for use in charging_key_usage.find(ledger)] == [("used", {"ALLOWED": 2})]


def test_a_rewrite_of_the_database_leaves_out_only_tables_that_name_nobody(any_node):
    if any_node.engine.dialect.name == "sqlite":
        pytest.skip("its file is rewritten as a whole")
    with any_node.engine.begin() as ledger:
        ledger.exec_driver_sql("CREATE TABLE plugin_notes (user_id text)")

    def files():
        query = "SELECT tablename, pg_relation_filenode(tablename::regclass) AS file FROM pg_tables"
        with read_only(any_node.engine) as ledger:
            return {row.tablename: row.file for row in ledger.execute(text(f"{query} WHERE schemaname = 'public'"))}

    before = files()
    vacuum_ledger(any_node.engine)
    after = files()

    named_nobody = {"drive_readings", "erasures", "ledger_identity", "sightings", "signing_key_uses"}
    left = {name for name, file in before.items() if after[name] == file}
    assert left == named_nobody | {"webhooks_schema_version"}


def test_a_log_that_a_reader_holds_is_not_said_to_be_rewritten(node, noon):
    engine = create_ledger_engine(str(node.engine.url), busy_timeout=timedelta(milliseconds=50))
    with read_only(node.engine) as reader:
        reader.execute(select(func.count()).select_from(deliveries_table))
        with engine.begin() as ledger:
            one = delivery_of(b"{}")
            deliveries.store(ledger, [one], {one.id: (DeliveryState.UNREADABLE, None)})
        with pytest.raises(VacuumFailed, match="a reader holds its log"):
            vacuum_ledger(engine)
    vacuum_ledger(engine)
    engine.dispose()


def test_tables_that_its_role_does_not_own_are_not_said_to_be_rewritten(postgres_url):
    migrate(postgres_url)
    engine = create_ledger_engine(f"{postgres_url}&options=-c%20role%3Dpg_monitor")

    with pytest.raises(VacuumFailed, match=r"left \d+ tables as they are: permission denied"):
        vacuum_ledger(engine)

    engine.dispose()
