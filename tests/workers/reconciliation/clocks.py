"""A simulated Drive API on a real port, and a clock whose reconciliation tasks run turn by turn."""

import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import uvicorn
from sqlalchemy import select, update

from handlers.kit.merge import merge
from handlers.session_records import session_of
from ingest.events import SessionEvent, decode
from ingest.simulator.drive.drive_app import create_drive
from ingest.simulator.drive.drive_faults import DriveFaults, RequestCounter
from ingest.simulator.drive.state import DriveState
from ingest.simulator.scenarios import Participants, SimulatedEvent, build_scenario
from tests.own_time import now
from workers.dev.simulator_diff import Comparison, compare
from workers.drive.client import DriveClient
from workers.drive.drive_errors import DriveError, DriveUnavailable
from workers.ledger import session_polls, sessions
from workers.ledger.tables.core_tables import sessions as session_table
from workers.ledger.tables.reconciliation_tables import session_polls as poll_table
from workers.reconciliation.backfill import BackfillHistories, ImportDowntimes
from workers.reconciliation.poll_sessions import PollSilentSessions
from workers.resilience.token_bucket import TokenBucket
from workers.resources import Resources

SECOND = timedelta(seconds=1)


class SimulatedDrive:
    """A simulated Drive API on a real port."""

    def __init__(self) -> None:
        self.state, self.faults, self.counter = (
            DriveState(seed=7),
            DriveFaults(seed=7),
            RequestCounter(per_minute=10**9),
        )
        app = create_drive(self.state, self.faults, counter=self.counter)
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=0))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/drive"

    @property
    def calls(self) -> int:
        return max(self.counter.counts.values(), default=0)


class SkippingClock:
    """A clock that skips what is slept: to wait a minute after a 429 takes no time."""

    def __init__(self) -> None:
        self.slept = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += timedelta(seconds=seconds)

    def client(self, settings: object) -> DriveClient:
        return DriveClient(
            settings,
            None,
            now=self.now,
            monotonic=lambda: self.now().timestamp(),
            sleep=self.sleep,
        )


class Clock:
    """The reconciliation tasks of one clock process, run turn by turn."""

    def __init__(self, resources: Resources, *, per_minute: int = 10**6, lease: timedelta = timedelta()) -> None:
        self.resources = resources
        drive, budget = SkippingClock().client(resources.settings), TokenBucket(per_minute)
        self.importing = ImportDowntimes(resources)
        self.restarted = partial(PollSilentSessions, resources, drive, budget, lease=lease)
        self.polling = self.restarted()
        self.backfill = BackfillHistories(resources, drive, budget)

    def turn(self) -> None:
        for task in (self.importing, self.polling, self.backfill):
            with suppress(DriveError):  # as the clock does: there is another turn
                task.run()

    def receive(self, events: list[SimulatedEvent]) -> None:
        """Merge events into their sessions, as a worker does."""
        with self.resources.engine.begin() as ledger:
            for each in events:
                event = decode(each.kind, each.body)
                assert isinstance(event, SessionEvent)
                sessions.merge(ledger, {event.session_id: partial(merge, session_of(event))})

    def comparison(self, state: DriveState) -> Comparison:
        with self.resources.engine.begin() as ledger:
            known = {each.session_id: each for each in sessions.latest(ledger, 10**6)}
        return compare(state.sessions.values(), known)

    def poll(self, session_id: str) -> session_polls.PollState:
        with self.resources.engine.begin() as ledger:
            return session_polls.states(ledger, [session_id])[session_id]

    def let_pass(self, by: timedelta) -> None:
        """Let time pass: make every time in the ledger older by a span."""
        self.polling = self.restarted()
        with self.resources.engine.begin() as ledger:
            for row in ledger.execute(select(poll_table)).all():
                times = ("enrolled_at", "next_at", "read_at", "status_at")
                older = {name: getattr(row, name) - by for name in times if getattr(row, name) is not None}
                where = poll_table.c.session_id == row.session_id
                ledger.execute(update(poll_table).where(where).values(**older))
            for row in ledger.execute(select(session_table.c.session_id, session_table.c.updated_at)).all():
                where = session_table.c.session_id == row.session_id
                ledger.execute(update(session_table).where(where).values(updated_at=row.updated_at - by))


def events_of(
    session_id: str, user_id: str, about: str = "session", begins_at: datetime | None = None
) -> list[SimulatedEvent]:
    return list(build_scenario(about, Participants(session_id, user_id), begins_at=begins_at, now=now()))


def fail_for(
    monkeypatch: pytest.MonkeyPatch, method: str, *ids: str, failure: type[DriveError] = DriveUnavailable
) -> None:
    """Let one method of the client fail for some ids."""
    original = getattr(DriveClient, method)

    def failing(self, *args, **options):
        if args[-1] in ids:
            raise failure("it always fails")
        return original(self, *args, **options)

    monkeypatch.setattr(DriveClient, method, failing)
