"""Windows in which events may be missing are backfilled from histories, whatever fails for some of the users."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import select
from structlog.testing import capture_logs

from handlers.kit.channel import Device
from ingest.errors import QueueUnavailable
from ingest.inbox.downtime import KEY, Downtime
from ingest.simulator.drive.drive_faults import parse_rates
from ingest.simulator.drive.state import SessionState, state_from_scenario
from tests.own_time import now
from tests.workers.reconciliation.clocks import Clock, SimulatedDrive, events_of, fail_for
from workers.drive.drive_errors import (
    DriveError,
    DriveUnavailable,
    InvalidResponse,
    NotFound,
    RateBudgetExhausted,
    Throttled,
    Unauthorized,
)
from workers.ledger import devices, downtimes, runs, sessions
from workers.ledger.runs import RunRecord
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import runs as run_table
from workers.reconciliation.backfill import ImportDowntimes
from workers.resilience.token_bucket import TokenBucket


def test_a_downtime_is_backfilled_from_the_histories_of_known_users(
    clock_on, database_url: str, simulator: SimulatedDrive, valkey: redis.Redis
):
    clock = clock_on(database_url, history_every="1000d", reconcile_after="30m")
    closed_at, opened_at = now() - timedelta(hours=3), now() - timedelta(hours=1)
    within, before = closed_at + timedelta(minutes=10), closed_at - timedelta(minutes=10)
    clock.receive(events_of("earlier", "user-1", begins_at=now() - timedelta(days=2)))
    clock.receive(events_of("open", "user-1", begins_at=before)[:1])
    with clock.resources.engine.begin() as ledger:
        devices.upsert(ledger, "user-2", Device("token"), now())
    for session_id, user_id, at in (("open", "user-1", before), ("new", "user-1", within), ("app", "user-2", within)):
        simulator.state.apply(filter(None, [state_from_scenario(events_of(session_id, user_id, begins_at=at))]))
    clock.let_pass(timedelta(hours=2))
    gap = Downtime(closed_at, opened_at, "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    for _ in range(2):
        clock.turn()
    assert clock.comparison(simulator.state).differences == {}
    with clock.resources.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.closed_at, row.opened_at, row.sessions_read) == (closed_at, opened_at, 3)
    assert row.covered_at is not None
    calls = simulator.calls
    clock.turn()
    assert simulator.calls == calls


def test_a_backfill_continues_where_a_clock_stopped(clock_on, tmp_path, simulator: SimulatedDrive, valkey: redis.Redis):
    url, parts = f"sqlite:///{tmp_path / 'ledger.db'}", {"history_every": "1000d", "reconcile_after": "30m"}
    first = clock_on(url, per_minute=6 * 10, **parts)
    for number in range(25):
        first.receive(events_of(f"S{number}", f"user-{number:02}"))
    gap = Downtime(now() - timedelta(hours=3), now(), "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    first.importing.run()
    first.backfill.run()
    assert 10 <= simulator.calls <= 14
    Clock(first.resources).backfill.run()
    with first.resources.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert row.covered_at is not None
    assert simulator.calls == 25


def test_users_are_not_listed_in_every_turn(
    clock_on, tmp_path, simulator: SimulatedDrive, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    parts = {"history_every": "1000d", "reconcile_after": "30m"}
    clock = clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", per_minute=6, **parts)
    for number in range(5):
        clock.receive(events_of(f"S{number}", f"user-{number}"))
    gap = Downtime(now() - timedelta(hours=3), now(), "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.importing.run()
    listed, users_after = [], downtimes.users_after
    monkeypatch.setattr(downtimes, "users_after", lambda *asked: listed.append(asked[1]) or users_after(*asked))
    for _ in range(5):  # a turn for each user
        monkeypatch.setattr(clock.backfill, "_budget", TokenBucket(6))
        clock.backfill.run()
    with clock.resources.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.covered_at is not None, simulator.calls) == (True, 5)
    assert listed == [None, "user-4"]


def test_unreadable_downtimes_in_redis_are_skipped(clock: Clock, valkey: redis.Redis):
    gap = Downtime(now() - timedelta(hours=3), now(), "inbox-1")
    valkey.hset(KEY, mapping={"a": "{}", "b": "[]", "c": "x", gap.field: gap.to_json()})
    clock.importing.run()
    clock.importing.run()
    with clock.resources.engine.begin() as ledger:
        assert len(downtimes.find(ledger)) == 1


def test_a_user_whose_history_cannot_be_read_is_skipped(
    clock: Clock, simulator: SimulatedDrive, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    for number in range(3):
        clock.receive(events_of(f"S{number}", f"user-{number}"))
    fail_for(monkeypatch, "history", "user-1")
    gap = Downtime(now() - timedelta(hours=3), now(), "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.importing.run()
    clock.backfill.run()
    with clock.resources.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.users_failed, row.covered_at is not None) == (1, True)


@pytest.mark.parametrize("failure", [DriveUnavailable, Unauthorized])
@pytest.mark.parametrize("failing", [("user-3",), ("user-2", "user-3"), ("user-1", "user-2")])
def test_several_such_users_or_the_last_one_are_skipped_too(
    clock: Clock,
    valkey: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    failing: tuple[str, ...],
    failure: type[DriveError],
):
    for number in range(4):
        clock.receive(events_of(f"S{number}", f"user-{number}"))
    fail_for(monkeypatch, "history", *failing, failure=failure)
    gap = Downtime(now() - timedelta(hours=3), now(), "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.importing.run()
    clock.backfill.run()
    with clock.resources.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.users_failed, row.covered_at is not None) == (len(failing), True)


def test_while_the_drive_api_is_down_no_user_is_skipped(clock: Clock, simulator: SimulatedDrive, valkey: redis.Redis):
    for number in range(4):
        clock.receive(events_of(f"S{number}", f"user-{number}"))
    gap = Downtime(now() - timedelta(hours=3), now(), "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.importing.run()
    simulator.faults.rates = parse_rates("500:1")
    with pytest.raises(DriveUnavailable):
        clock.backfill.run()
    with clock.resources.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.users_failed, row.covered_at) == (0, None)


def test_a_warning_that_waits_for_its_driver_is_due_once_a_history_names_them(
    clock_on, database_url: str, simulator: SimulatedDrive
):
    clock = clock_on(database_url, history_every="1ms", history_span="1d")
    clock.receive(events_of("S1", "user-1"))
    clock.receive(events_of("S2", "user-1", "SESSION_FEE_INCURRING"))  # names no driver
    due_at = datetime.now(UTC) + timedelta(hours=1)
    with clock.resources.engine.begin() as ledger:
        runs.insert_runs(ledger, [waiting_run(due_at)])
    simulator.state.apply(filter(None, [state_from_scenario(events_of("S2", "user-1", "fee-warning"))]))
    clock.backfill.run()
    with clock.resources.engine.begin() as ledger:
        assert ledger.scalars(select(run_table.c.due_at)).one() < due_at
        assert sessions.get(ledger, "S2").user_id == "user-1"


def waiting_run(due_at: datetime) -> RunRecord:
    at = datetime.now(UTC)
    return RunRecord(
        delivery_id="d1",
        handler="warn",
        queue="urgent",
        outcome=Outcome.AGAIN,
        attempts=1,
        due_at=due_at,
        waits_for="S2",
        started_at=at,
        finished_at=at,
    )


def test_unstorable_sessions_of_a_history_do_not_harm_the_others(
    clock_on, database_url: str, simulator: SimulatedDrive
):
    clock = clock_on(database_url, history_every="1ms", history_span="1d")
    clock.receive(events_of("S1", "user-1"))
    begun_at = now() - timedelta(hours=1)
    odd = ("N\0UL", "x" * 1000, "good")
    simulator.state.apply([SessionState(session_id, "user-1", "STARTED", begun_at) for session_id in odd])
    clock.backfill.run()
    with clock.resources.engine.begin() as ledger:
        assert {each.session_id for each in sessions.latest(ledger, 100)} == {"S1", "good"}


def test_downtimes_close_together_are_backfilled_as_one(
    clock_on, database_url: str, simulator: SimulatedDrive, valkey: redis.Redis
):
    clock = clock_on(database_url, per_minute=60, history_every="1000d", reconcile_after="30m")
    closed_at = now() - timedelta(hours=30)
    for number in range(15):
        clock.receive(events_of(f"S{number}", f"user-{number:02}"))
    simulator.state.apply(
        filter(None, [state_from_scenario(events_of("late", "user-00", begins_at=closed_at + timedelta(hours=5)))])
    )
    for inbox, hours in (("inbox-1", 0), ("inbox-2", 0), ("inbox-1", 6), ("inbox-2", 29)):
        gap = Downtime(closed_at + timedelta(hours=hours), closed_at + timedelta(hours=hours, minutes=30), inbox)
        valkey.hset(KEY, gap.field, gap.to_json())
    clock.importing.run()
    clock.backfill.run()
    other = Clock(clock.resources)
    other.backfill.run()
    with clock.resources.engine.begin() as ledger:
        assert [row.covered_at is not None for row in downtimes.find(ledger)] == [False, True, True, True]
        assert sessions.get(ledger, "late") is not None
    assert simulator.calls == 15
    other.backfill.run()
    with clock.resources.engine.begin() as ledger:
        assert all(row.covered_at for row in downtimes.find(ledger))
    assert simulator.calls == 30


@pytest.mark.parametrize("failure", [Throttled, RateBudgetExhausted])
@pytest.mark.parametrize("user_id", ["user-1", "user-0"])
def test_a_throttled_turn_ends_without_skipping_a_user(clock: Clock, valkey, monkeypatch, failure, user_id):
    for number in range(3):
        clock.receive(events_of(f"S{number}", f"user-{number}"))
    fail_for(monkeypatch, "history", user_id, failure=failure)
    gap = Downtime(now() - timedelta(hours=3), now(), "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.importing.run()
    with pytest.raises(failure):
        clock.backfill.run()
    with clock.resources.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.users_failed, row.covered_at) == (0, None)


def test_a_user_without_history_is_not_a_failure(clock: Clock, valkey, monkeypatch):
    clock.receive(events_of("S1", "user-1"))
    fail_for(monkeypatch, "history", "user-1", failure=NotFound)
    gap = Downtime(now() - timedelta(hours=3), now(), "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.importing.run()
    clock.backfill.run()
    with clock.resources.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.users_failed, row.covered_at is not None) == (0, True)


def test_a_user_with_invalid_history_is_skipped(clock: Clock, valkey, monkeypatch):
    for number in range(2):
        clock.receive(events_of(f"S{number}", f"user-{number}"))
    fail_for(monkeypatch, "history", "user-0", failure=InvalidResponse)
    gap = Downtime(now() - timedelta(hours=3), now(), "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.importing.run()
    with capture_logs() as logs:
        clock.backfill.run()
    assert [line["reason"] for line in logs if line["event"] == "history.skipped"] == ["it always fails"]
    with clock.resources.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.users_failed, row.covered_at is not None) == (1, True)


def test_without_redis_downtimes_are_imported_later(clock: Clock):
    away = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    with pytest.raises(QueueUnavailable, match="downtimes"):
        ImportDowntimes(replace(clock.resources, connection=away)).run()
