"""A clock that is set back keeps nothing waiting."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, insert, select

from workers.clock.clock_rollback import RECHECK_AFTER, ClockRollback
from workers.ledger import runs as ledger_runs
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.runs import NewRun
from workers.ledger.states import Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.alerts import alerts
from workers.ledger.tables.core import pushes, runs
from workers.ledger.tables.reconciliation import PollOutcome, downtimes, session_polls

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


class Clocks:
    """The clock of the wall, and the one that nobody sets."""

    def __init__(self) -> None:
        self.wall, self.steady = NOON, 100.0

    def passes(self, span: timedelta, *, wall: timedelta | None = None) -> None:
        self.steady += span.total_seconds()
        self.wall += span if wall is None else wall

    def setback(self, engine: Engine) -> ClockRollback:
        return ClockRollback(engine, wall=lambda: self.wall, monotonic=lambda: self.steady)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_ledger_engine(database_url)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def put_off(engine: Engine, name: str, due_at: datetime) -> None:
    with engine.begin() as ledger:
        run = NewRun(delivery_id=name, handler="warn", queue="urgent", outcome=Outcome.AGAIN, attempts=1, due_at=due_at)
        ledger_runs.insert_runs(ledger, [run])


def test_alerts_windows_and_sessions_to_be_read_again_are_due_then_too(engine: Engine) -> None:
    clocks = Clocks()
    setback = clocks.setback(engine)
    later = NOON + HOUR
    alert = {"id": "a1", "kind": "gap", "subject": "s", "sentence": "", "raised_at": NOON, "due_at": later}
    window = {"inbox": "i", "closed_at": NOON, "opened_at": NOON, "noticed_at": NOON, "claimed_until": later}
    reread = {"session_id": "S1", "outcome": PollOutcome.OPEN, "enrolled_at": NOON, "next_at": later, "attempts": 1}
    with engine.begin() as ledger:
        ledger.execute(insert(alerts).values(alert))
        ledger.execute(insert(downtimes).values(window | {"sessions_read": 0, "users_failed": 0}))
        ledger.execute(insert(session_polls).values(reread))
    clocks.passes(timedelta(seconds=1), wall=-HOUR)
    setback.check()
    with engine.connect() as ledger:
        for column in (alerts.c.due_at, downtimes.c.claimed_until, session_polls.c.next_at):
            assert ledger.scalar(select(column)) == clocks.wall


def due_at(engine: Engine, name: str = "d1") -> datetime | None:
    with engine.connect() as ledger:
        return ledger.scalar(select(runs.c.due_at).where(runs.c.delivery_id == name))


def test_what_was_put_off_by_a_clock_that_was_ahead_is_due_once_it_is_set_back(engine: Engine) -> None:
    clocks = Clocks()
    setback = clocks.setback(engine)
    put_off(engine, "d1", NOON + timedelta(seconds=2))
    with engine.begin() as ledger:
        ledger.execute(insert(pushes).values(PUSH))
    clocks.passes(timedelta(seconds=1), wall=-HOUR)
    setback.check()
    assert due_at(engine) == clocks.wall
    with engine.connect() as ledger:
        assert ledger.scalar(select(pushes.c.due_at)) == clocks.wall
    came_back_at = clocks.steady
    for number, span in enumerate(RECHECK_AFTER):
        due = clocks.wall + HOUR
        put_off(engine, f"late-{number}", due)  # a transaction that was on its way meanwhile
        clocks.passes(timedelta(seconds=1))
        setback.check()
        assert due_at(engine, f"late-{number}") == due
        clocks.passes(span - timedelta(seconds=clocks.steady - came_back_at))
        setback.check()
        assert due_at(engine, f"late-{number}") == clocks.wall
    put_off(engine, "later", clocks.wall + HOUR)
    clocks.passes(2 * RECHECK_AFTER[-1])
    setback.check()
    assert due_at(engine, "later") is not None
    assert due_at(engine, "later") > clocks.wall  # by the right clock, and left alone


@pytest.mark.parametrize("wall", [timedelta(seconds=59), timedelta(seconds=61), HOUR])
def test_a_clock_that_is_corrected_a_little_or_runs_ahead_changes_nothing(engine: Engine, wall: timedelta) -> None:
    clocks = Clocks()
    setback = clocks.setback(engine)
    put_off(engine, "d1", NOON + 2 * HOUR)
    clocks.passes(timedelta(seconds=60), wall=wall)
    setback.check()
    assert due_at(engine) == NOON + 2 * HOUR
