"""A wall clock that is set back delays nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, insert, select

from workers.clock.clock_rollback import RECHECK_AFTER, ClockRollback
from workers.ledger import runs as ledger_runs
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.runs import RunRecord
from workers.ledger.states import Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.alert_tables import alerts
from workers.ledger.tables.core_tables import pushes, runs
from workers.ledger.tables.reconciliation_tables import PollOutcome, downtimes, session_polls

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PUSH = {
    "id": "p1",
    "delivery_id": "d1",
    "handler": "warn",
    "user_id": "driver",
    "channel": "log",
    "state": "waiting",
    "title": "",
    "body": "",
    "payload": {},
    "collapse_key": "",
    "created_at": NOON,
    "due_at": NOON + HOUR,
    "attempts": 1,
}


class FakeClocks:
    """A wall clock and a monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.monotonic = NOON, 100.0

    def advance(self, span: timedelta, *, wall: timedelta | None = None) -> None:
        self.monotonic += span.total_seconds()
        self.wall += span if wall is None else wall

    def rollback(self, engine: Engine) -> ClockRollback:
        return ClockRollback(engine, wall=lambda: self.wall, monotonic=lambda: self.monotonic)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_ledger_engine(database_url, creates_file=True)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def postpone(engine: Engine, name: str, due_at: datetime) -> None:
    with engine.begin() as ledger:
        run = RunRecord(
            delivery_id=name, handler="warn", queue="urgent", outcome=Outcome.AGAIN, attempts=1, due_at=due_at
        )
        ledger_runs.insert_runs(ledger, [run])


def test_alerts_downtimes_and_polls_are_rescheduled_too(engine: Engine) -> None:
    clocks = FakeClocks()
    rollback = clocks.rollback(engine)
    later = NOON + HOUR
    alert = {"id": "a1", "kind": "gap", "subject": "s", "sentence": "", "raised_at": NOON, "due_at": later}
    downtime = {"inbox": "i", "closed_at": NOON, "opened_at": NOON, "noticed_at": NOON, "claimed_until": later}
    poll = {"session_id": "S1", "outcome": PollOutcome.OPEN, "enrolled_at": NOON, "next_at": later, "attempts": 1}
    with engine.begin() as ledger:
        ledger.execute(insert(alerts).values(alert))
        ledger.execute(insert(downtimes).values(downtime | {"sessions_read": 0, "users_failed": 0}))
        ledger.execute(insert(session_polls).values(poll))
    clocks.advance(timedelta(seconds=1), wall=-HOUR)
    rollback.check()
    with engine.connect() as ledger:
        for column in (alerts.c.due_at, downtimes.c.claimed_until, session_polls.c.next_at):
            assert ledger.scalar(select(column)) == clocks.wall


def due_at(engine: Engine, name: str = "d1") -> datetime | None:
    with engine.connect() as ledger:
        return ledger.scalar(select(runs.c.due_at).where(runs.c.delivery_id == name))


def test_work_postponed_by_a_clock_that_was_ahead_is_due_once_it_is_set_back(engine: Engine) -> None:
    clocks = FakeClocks()
    rollback = clocks.rollback(engine)
    postpone(engine, "d1", NOON + timedelta(seconds=2))
    with engine.begin() as ledger:
        ledger.execute(insert(pushes).values(PUSH))
    clocks.advance(timedelta(seconds=1), wall=-HOUR)
    rollback.check()
    assert due_at(engine) == clocks.wall
    with engine.connect() as ledger:
        assert ledger.scalar(select(pushes.c.due_at)) == clocks.wall
    set_back_at = clocks.monotonic
    for number, span in enumerate(RECHECK_AFTER):
        due = clocks.wall + HOUR
        postpone(engine, f"late-{number}", due)  # a transaction that was on its way meanwhile
        clocks.advance(timedelta(seconds=1))
        rollback.check()
        assert due_at(engine, f"late-{number}") == due
        clocks.advance(span - timedelta(seconds=clocks.monotonic - set_back_at))
        rollback.check()
        assert due_at(engine, f"late-{number}") == clocks.wall
    postpone(engine, "later", clocks.wall + HOUR)
    clocks.advance(2 * RECHECK_AFTER[-1])
    rollback.check()
    assert due_at(engine, "later") is not None
    assert due_at(engine, "later") > clocks.wall  # postponed by the right clock, and left as it is


@pytest.mark.parametrize("wall", [timedelta(seconds=59), timedelta(seconds=61), HOUR])
def test_a_small_correction_or_a_step_ahead_changes_nothing(engine: Engine, wall: timedelta) -> None:
    clocks = FakeClocks()
    rollback = clocks.rollback(engine)
    postpone(engine, "d1", NOON + 2 * HOUR)
    clocks.advance(timedelta(seconds=60), wall=wall)
    rollback.check()
    assert due_at(engine) == NOON + 2 * HOUR
