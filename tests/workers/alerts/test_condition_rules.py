"""The rules about what is wrong at the moment: when each raises its alert, and when it resolves it."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import text, update

from handlers.kit.context import Push
from ingest.config.settings import load_settings
from ingest.inbox.quarantined_request import WRONG_PATH
from ingest.queue import process_monitor
from ingest.queue.process_registry import KEY, NodeReport, ProcessRecord, ProcessRegistry, ProcessType
from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import connect_redis
from tests.workers.alerts.conftest import WatchedLedger
from workers.alerts.alert_evaluator import AlertEvaluator
from workers.alerts.alerts import AlertKind, AlertRow
from workers.alerts.condition_rules import PASSED_AFTER
from workers.ledger import pushes, runs, transaction_monitor
from workers.ledger.pushes import NewPush, PushUpdate
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome, PushState
from workers.ledger.tables.core_tables import deliveries
from workers.ledger.tables.core_tables import pushes as pushes_table
from workers.ledger.tables.core_tables import runs as runs_table

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


class Watch:
    """An evaluator whose clock a test moves."""

    def __init__(self, watched: WatchedLedger, connection: redis.Redis | None = None) -> None:
        self.watched = watched
        self.moment = 1000.0
        quiet = load_settings(watch_session_open="0", watch_silence="0", watch_gap="0")
        self.evaluator = AlertEvaluator(watched.engine, quiet, connection, clock=lambda: self.moment)

    def after(self, span: timedelta) -> list[AlertRow]:
        """Evaluate so much later, and list the open alerts."""
        self.moment += span.total_seconds()
        self.evaluator.run()
        return [row for row in self.watched.alerts() if row.resolved_at is None]

    def kinds(self, span: timedelta = SECOND) -> list[str]:
        return sorted(row.kind.value for row in self.after(span))


@pytest.fixture
def ledger_watch(watched: WatchedLedger) -> Watch:
    return Watch(watched)


def run(watched: WatchedLedger, name: str, *, ago: timedelta, **parts: Any) -> None:
    """Insert a run that has failed and is tried again, on a delivery that was stored so long ago."""
    watched.deliver(name, ago, state=DeliveryState.RETRYING)
    failing = RunRecord(
        delivery_id=name,
        handler="audit",
        queue="other",
        outcome=Outcome.AGAIN,
        attempts=1,
        due_at=datetime.now(UTC) + MINUTE,
        error="KeyError: 'driver-1'",
        finished_at=datetime.now(UTC),
    )
    with watched.engine.begin() as ledger:
        runs.insert_runs(ledger, [replace(failing, **parts)])
        stored = update(deliveries).where(deliveries.c.id == name)
        ledger.execute(stored.values(stored_at=datetime.now(UTC) - ago))


def end(watched: WatchedLedger, *names: str) -> None:
    with watched.engine.begin() as ledger:
        ended = update(runs_table).where(runs_table.c.delivery_id.in_(names))
        ledger.execute(ended.values(outcome=Outcome.DONE, due_at=None))


def test_a_handler_of_which_several_runs_fail_is_an_alert_long_before_they_are_dead(
    watched: WatchedLedger, ledger_watch: Watch
) -> None:
    run(watched, "d1", ago=40 * SECOND)
    run(watched, "d2", ago=SECOND)
    assert ledger_watch.kinds() == []
    run(watched, "d3", ago=SECOND, outcome=Outcome.RUNNING, due_at=None)  # it is being tried again
    (alert,) = ledger_watch.after(SECOND)
    assert (alert.kind, alert.subject) == (AlertKind.HANDLER_FAILING, "audit")
    assert "audit" in alert.sentence
    assert "KeyError" in alert.sentence
    assert "3 runs" in alert.sentence
    assert "driver-1" not in alert.sentence
    assert ledger_watch.kinds() == ["handler_failing"]
    end(watched, "d1", "d2", "d3")
    assert ledger_watch.kinds(PASSED_AFTER - 2 * SECOND) == ["handler_failing"]  # it may only be between two attempts
    assert ledger_watch.kinds(2 * SECOND) == []
    assert len(watched.alerts()) == 1


def test_runs_that_fail_only_since_a_moment_are_no_alert_yet(watched: WatchedLedger, ledger_watch: Watch) -> None:
    for name in ("d1", "d2", "d3"):
        run(watched, name, ago=10 * SECOND)
    assert ledger_watch.kinds() == []


def test_a_single_run_that_fails_for_long_is_an_alert_and_one_that_waits_is_none(
    watched: WatchedLedger, ledger_watch: Watch
) -> None:
    for name in ("d1", "d2", "d3"):
        run(watched, name, ago=11 * MINUTE, error=None, reason="no driver is known")  # RetryLater
    assert ledger_watch.kinds() == []
    run(watched, "d4", ago=11 * MINUTE)
    assert ledger_watch.kinds() == ["handler_failing"]


def test_an_alert_that_a_person_has_resolved_is_raised_again_only_for_a_new_cause(
    watched: WatchedLedger, ledger_watch: Watch
) -> None:
    for name in ("d1", "d2", "d3"):
        run(watched, name, ago=MINUTE)
    assert ledger_watch.kinds() == ["handler_failing"]
    watched.resolve()
    assert ledger_watch.kinds() == []
    end(watched, "d1", "d2", "d3")
    ledger_watch.after(SECOND)
    ledger_watch.after(PASSED_AFTER)
    for name in ("d4", "d5", "d6"):
        run(watched, name, ago=MINUTE)
    assert ledger_watch.kinds() == ["handler_failing"]


@pytest.fixture
def push(watched: WatchedLedger) -> Callable[..., str]:
    """Insert a push that was made so long ago, and what became of it."""

    def insert(user: str, *, ago: timedelta, state: PushState = PushState.WAITING, error: str | None = None) -> str:
        at = datetime.now(UTC)
        new = NewPush(f"d-{user}", "warn", "fcm", Push(user, "t", "b", "k"), at - ago)
        with watched.engine.begin() as ledger:
            pushes.insert(ledger, [new])
            if error is not None:
                (claimed,) = pushes.claim(ledger, "fcm", at - ago, ago, limit=1)
                due_at = at + MINUTE if state is PushState.WAITING else None
                marked = PushUpdate(id=new.id, attempt=claimed.attempts, state=state, due_at=due_at, error=error)
                pushes.mark(ledger, [marked])
        return new.id

    return insert


def test_failed_pushes_to_several_drivers_are_an_alert_within_seconds(
    ledger_watch: Watch, push: Callable[..., str]
) -> None:
    for user in ("u1", "u2"):
        push(user, ago=15 * SECOND, error="the service answered 401")
    assert ledger_watch.kinds() == []
    push("u3", ago=SECOND, error="the service answered 401")
    (alert,) = ledger_watch.after(SECOND)
    assert (alert.kind, alert.subject) == (AlertKind.PUSHES_LATE, "fcm")
    assert "the service answered 401" in alert.sentence


def test_a_push_that_waits_for_a_minute_is_an_alert_and_one_that_was_sent_is_none(
    ledger_watch: Watch, push: Callable[..., str]
) -> None:
    push("u1", ago=50 * SECOND)
    push("u2", ago=5 * MINUTE, error="", state=PushState.MOOT)
    assert ledger_watch.kinds() == []
    push("u3", ago=2 * MINUTE)
    (alert,) = ledger_watch.after(SECOND)
    assert alert.kind is AlertKind.PUSHES_LATE
    assert re.match(r"2 pushes on fcm should have been sent, the first (2 m|1\d\d s) ago\. ", alert.sentence)


def test_dead_pushes_are_an_alert_until_they_are_sent_again(
    watched: WatchedLedger, ledger_watch: Watch, push: Callable[..., str]
) -> None:
    push("u1", ago=MINUTE, error="the service answered 400", state=PushState.DEAD)
    (alert,) = ledger_watch.after(SECOND)
    assert (alert.kind, alert.subject, alert.delivery_id) == (AlertKind.PUSHES_DEAD, "fcm", "d-u1")
    assert alert.sentence.startswith("1 push on fcm will not be sent")
    assert "webhooks pushes retry" in alert.sentence
    watched.resolve()
    assert ledger_watch.kinds() == []
    push("u2", ago=-MINUTE, error="the service answered 400", state=PushState.DEAD)
    assert ledger_watch.kinds() == ["pushes_dead"]
    with watched.engine.begin() as ledger:
        ledger.execute(update(pushes_table).values(state=PushState.SENT))
    ledger_watch.after(SECOND)
    assert ledger_watch.kinds(PASSED_AFTER) == []


@pytest.mark.parametrize(
    ("queue", "due_for", "alerts"), [("urgent", 11, 1), ("urgent", 8, 0), ("cdrs", 61, 1), ("cdrs", 50, 0)]
)
def test_a_run_that_is_due_for_too_long_is_an_alert(
    watched: WatchedLedger, valkey: redis.Redis, queue: str, due_for: int, alerts: int
) -> None:
    due_at = datetime.now(UTC) - due_for * SECOND
    run(watched, "d1", ago=MINUTE, outcome=Outcome.WAITING, error=None, queue=queue, due_at=due_at, attempts=0)
    assert [row.subject for row in Watch(watched, valkey).after(SECOND)] == [f"runs {queue}"] * alerts


def beat(connection: redis.Redis, process: ProcessType, **parts: Any) -> None:
    queues = QUEUES if process is ProcessType.WORK else ()
    record = replace(ProcessRecord.of_this_process(process, queues=queues), **parts)
    ProcessRegistry(connection).beat(record)


@pytest.fixture
def all_run(valkey: redis.Redis) -> redis.Redis:
    """A Redis in which every type of process has just reported itself."""
    for process in ProcessType:
        beat(valkey, process)
    return valkey


def test_nothing_is_wrong_while_every_process_runs(watched: WatchedLedger, all_run: redis.Redis) -> None:
    watch = Watch(watched, all_run)
    assert watch.kinds() == []
    assert watch.kinds(MINUTE) == []


@pytest.mark.parametrize("gone", [ProcessType.WORK, ProcessType.CLOCK])
def test_a_process_that_is_gone_is_an_alert_until_one_runs_again(
    watched: WatchedLedger, all_run: redis.Redis, gone: ProcessType
) -> None:
    watch = Watch(watched, all_run)
    kind = f"{'worker' if gone is ProcessType.WORK else 'clock'}_gone"
    beat(all_run, gone, is_stopped=True)
    assert watch.kinds() == []
    (alert,) = watch.after(process_monitor.PATIENCE)
    assert alert.kind.value == kind
    assert f"webhooks {gone}" in alert.sentence
    beat(all_run, gone)
    assert watch.kinds(PASSED_AFTER) == []


def test_what_a_redis_that_does_not_answer_hides_is_neither_raised_nor_resolved(watched: WatchedLedger) -> None:
    with connect_redis("unix:///nowhere") as connection:
        watch = Watch(watched, connection)
        assert watch.kinds() == []
        (alert,) = watch.after(MINUTE)
    assert (alert.kind, alert.subject) == (AlertKind.STALLED, "redis")


def test_a_node_that_refuses_many_requests_is_an_alert_and_one_that_refuses_some_is_none(
    watched: WatchedLedger, all_run: redis.Redis
) -> None:
    watch = Watch(watched, all_run)
    beat(all_run, ProcessType.SERVE, node=NodeReport({"There is no signature.": 10, "Wrong.": 19}))
    assert watch.kinds() == []
    beat(all_run, ProcessType.SERVE, node=NodeReport({"There is no signature.": 10, "Wrong.": 20, WRONG_PATH: 7}))
    assert watch.kinds() == ["signatures_failing", "wrong_path"]
    by_kind = {row.kind: row.sentence for row in watched.alerts()}
    assert "30 requests" in by_kind[AlertKind.SIGNATURES_FAILING]
    assert "Wrong." in by_kind[AlertKind.SIGNATURES_FAILING]
    assert "reverify --as" in by_kind[AlertKind.WRONG_PATH]


@pytest.mark.parametrize(
    ("oldest", "alerts"), [({"urgent": 11.0}, 1), ({"urgent": 9.0, "cdrs": 59.0}, 0), ({"cdrs": 61.0}, 1)]
)
def test_a_delivery_that_waits_in_an_inbox_for_too_long_is_an_alert(
    watched: WatchedLedger, all_run: redis.Redis, oldest: dict[str, float], alerts: int
) -> None:
    beat(all_run, ProcessType.SERVE, node=NodeReport({}, oldest))
    assert Watch(watched, all_run).kinds() == ["stalled"] * alerts


@pytest.mark.parametrize(("age", "alerts"), [(None, 0), (3599.0, 0), (3601.0, 1)])
def test_an_erasure_that_an_inbox_does_not_carry_out_is_an_alert(
    watched: WatchedLedger, all_run: redis.Redis, age: float | None, alerts: int
) -> None:
    beat(all_run, ProcessType.SERVE, node=NodeReport(oldest_erasure=age))
    found = Watch(watched, all_run).after(SECOND)
    assert [each.kind for each in found] == [AlertKind.STALLED] * alerts
    assert all("erased 1 h ago may still be in the inbox" in each.sentence for each in found)


def test_a_worker_with_older_plugins_than_there_are_is_an_alert(watched: WatchedLedger, all_run: redis.Redis) -> None:
    beat(all_run, ProcessType.WORK, outdated=("fee_warning.py",))
    (alert,) = Watch(watched, all_run).after(SECOND)
    assert alert.kind is AlertKind.HANDLERS_OUTDATED
    assert "fee_warning.py" in alert.sentence


@pytest.mark.parametrize(("ran_for", "alerts"), [(120.0, ["handlers_outdated"]), (30.0, [])])
def test_a_worker_that_has_not_loaded_a_handler_is_an_alert_unless_it_is_rolled_out(
    watched: WatchedLedger, all_run: redis.Redis, ran_for: float, alerts: list[str]
) -> None:
    seconds, _ = all_run.time()
    for process, handlers in ((ProcessType.CLOCK, ("thanks", "warn_the_driver")), (ProcessType.WORK, ("thanks",))):
        record = replace(ProcessRecord.of_this_process(process, queues=QUEUES), handlers=handlers)
        record = replace(record, started_at=seconds - ran_for, beat_at=float(seconds))
        all_run.hset(KEY, f"{process}:{record.id}", record.to_json())
    watch = Watch(watched, all_run)
    assert watch.kinds() == alerts
    for alert in watched.alerts():
        assert "has not loaded warn_the_driver, which the clock has." in alert.sentence


def test_a_process_that_died_is_forgotten_with_its_alert(watched: WatchedLedger, all_run: redis.Redis) -> None:
    watch = Watch(watched, all_run)
    seconds, _ = all_run.time()
    dead = ProcessRecord(ProcessType.WORK, "dead", "there", 7, started_at=seconds - 900.0, beat_at=seconds - 100.0)
    all_run.hset(KEY, "work:dead", dead.to_json())
    beat(all_run, ProcessType.WORK)
    late = replace(ProcessRecord.of_this_process(ProcessType.WORK, queues=QUEUES), started_at=seconds - 1000.0)
    all_run.hset(KEY, f"work:{late.id}", replace(late, beat_at=float(seconds)).to_json())
    watch.after(SECOND)
    assert watch.kinds(process_monitor.PATIENCE) == ["worker_gone"]
    all_run.hdel(KEY, "work:dead")
    watch.after(SECOND)
    assert watch.kinds(PASSED_AFTER) == []


def test_a_redis_that_is_nearly_full_is_an_alert_until_it_has_room(
    watched: WatchedLedger, all_run: redis.Redis
) -> None:
    watch = Watch(watched, all_run)
    all_run.config_set("maxmemory", int(all_run.info("memory")["used_memory"] * 1.1))
    try:
        assert watch.kinds() == ["redis_full"]
    finally:
        all_run.config_set("maxmemory", 0)
    assert watch.kinds() == ["redis_full"]
    assert watch.kinds(PASSED_AFTER) == []


def test_a_redis_that_would_delete_jobs_is_an_alert_once_it_has_a_limit(
    watched: WatchedLedger, all_run: redis.Redis
) -> None:
    watch = Watch(watched, all_run)
    all_run.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert watch.kinds() == []
        all_run.config_set("maxmemory", "1gb")
        (alert,) = watch.after(SECOND)
        assert alert.kind is AlertKind.REDIS_EVICTS
        assert "noeviction" in alert.sentence
    finally:
        all_run.config_set("maxmemory", 0)
        all_run.config_set("maxmemory-policy", "noeviction")


def test_a_transaction_that_stays_open_is_an_alert_until_it_ends(
    watched: WatchedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(watched)
    is_sqlite = watched.engine.dialect.name == "sqlite"
    monkeypatch.setattr(transaction_monitor, "OPEN_FOR", timedelta())
    monkeypatch.setattr(transaction_monitor, "WAL_BYTES", 2_000_000)
    assert watch.kinds() == []
    with watched.engine.connect() as reader, watched.engine.connect() as writer:
        writer.execute(text("CREATE TABLE large (filler TEXT)"))
        writer.commit()
        reader.execution_options(reading=True).execute(text("SELECT count(*) FROM large"))
        for _ in range(30 if is_sqlite else 0):  # each commit rewrites its pages in the log, which is not emptied
            writer.execute(text("DELETE FROM large"))
            writer.execute(text("INSERT INTO large VALUES (:filler)"), {"filler": "x" * 100_000})
            writer.commit()
        (alert,) = watch.after(SECOND)
        assert alert.kind is AlertKind.OLD_TRANSACTION
        assert ("fuser -v" if is_sqlite else "pg_terminate_backend(") in alert.sentence
    if is_sqlite:
        monkeypatch.setattr(transaction_monitor, "WAL_BYTES", 1 << 30)
    assert watch.kinds() == ["old_transaction"]
    assert watch.kinds(PASSED_AFTER) == []
