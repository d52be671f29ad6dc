"""A ledger with sessions, deliveries, CDRs and downtimes, and the evaluator of its alert rules."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update

from handlers.kit.cdr_table import cdrs
from ingest.config.settings import load_settings
from ingest.queue.batch import Delivery
from workers.alerts.alert_evaluator import AlertEvaluator
from workers.alerts.alerts import AlertRow, find_alerts, resolve_by_id
from workers.ledger import deliveries, delivery_states, runs
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.core_tables import sessions
from workers.ledger.tables.reconciliation_tables import downtimes

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WEEK = 7 * DAY


@dataclass
class WatchedLedger:
    """A ledger, and the evaluator of its alert rules."""

    engine: Engine
    moment: float = 1000.0
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    evaluators: dict[str, AlertEvaluator] = field(default_factory=dict)

    def evaluate(self, **settings: Any) -> list[str]:
        """Evaluate once, and return the kinds of the alerts that are open then."""
        evaluator = self.evaluators.get(str(settings))
        if evaluator is None:
            evaluator = self.evaluators[str(settings)] = AlertEvaluator(
                self.engine, load_settings(**settings), clock=lambda: self.moment
            )
        self.moment += 3600
        evaluator.run()
        return [row.kind.value for row in self.alerts() if row.resolved_at is None]

    def alerts(self) -> list[AlertRow]:
        with self.engine.begin() as ledger:
            return find_alerts(ledger)

    def resolve(self) -> None:
        with self.engine.begin() as ledger:
            resolve_by_id(ledger, [row.id for row in find_alerts(ledger)], datetime.now(UTC))

    def session(self, name: str, status: str, started: timedelta, *, known: timedelta | None = None) -> None:
        """Insert a session that started so long ago, and was updated last `known` ago."""
        at = self.now - started
        values = {
            "session_id": name,
            "status": status,
            "started_at": at,
            "completed_at": at if status == "COMPLETE" else None,
            "anomalies": [],
            "facts": {},
            "updated_at": self.now - (started if known is None else known),
        }
        with self.engine.begin() as ledger:
            ledger.execute(insert(sessions).values(values))

    def set_status(self, name: str, status: str) -> None:
        with self.engine.begin() as ledger:
            this = update(sessions).where(sessions.c.session_id == name)
            ledger.execute(this.values(status=status, updated_at=datetime.now(UTC)))

    def cdr(
        self, name: str, request_id: str | None = None, session_id: str | None = None, notes: Sequence[str] = ()
    ) -> None:
        values = {
            "delivery_id": name,
            "position": 0,
            "request_id": request_id,
            "identity": request_id or name,
            "content": name,
            "session_id": session_id,
            "notes": list(notes),
            "document": "{}",
            "received_at": self.now,
            "recorded_at": datetime.now(UTC),
        }
        with self.engine.begin() as ledger:
            ledger.execute(insert(cdrs).values(values))

    def deliver(
        self, name: str, ago: timedelta, *, kind: str = "events", state: DeliveryState = DeliveryState.SETTLED
    ) -> None:
        one = Delivery(name, kind, None, None, self.now - ago, "current", None, {}, b"{}", 1, "here")
        with self.engine.begin() as ledger:
            deliveries.store(ledger, [one], {name: (state, None)})

    def busy(self, *ago: timedelta, count: int = 10) -> None:
        """Insert so many events in the half hour before each of these times."""
        for at in ago:
            for number in range(count):
                self.deliver(f"{at}-{number}", at + number * timedelta(minutes=3))

    def die(self, name: str, handler: str) -> None:
        self.deliver(name, HOUR, state=DeliveryState.RUNNING)
        dead = RunRecord(
            delivery_id=name,
            handler=handler,
            queue="other",
            outcome=Outcome.DEAD,
            attempts=3,
            error="KeyError: 'a body'",
            finished_at=datetime.now(UTC),
        )
        with self.engine.begin() as ledger:
            runs.insert_runs(ledger, [dead])
            delivery_states.refresh_states(ledger, [name])

    def downtime(self, ago: timedelta, length: timedelta, inbox: str = "here") -> None:
        values = {
            "inbox": inbox,
            "closed_at": self.now - ago - length,
            "opened_at": self.now - ago,
            "noticed_at": self.now - ago,
            "sessions_read": 0,
            "users_failed": 0,
        }
        with self.engine.begin() as ledger:
            ledger.execute(insert(downtimes).values(values))


@pytest.fixture
def watched(database_url: str) -> Iterator[WatchedLedger]:
    engine = create_ledger_engine(database_url, creates_file=True)
    metadata.create_all(engine)
    yield WatchedLedger(engine)
    engine.dispose()
