"""Warm up the ledger's engine before there is a job: compile its statements, and open a connection."""

from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Engine

from handlers.kit.session import Session, StatusTimes
from ingest.queue.batch import Delivery
from workers.ledger import deliveries, delivery_states, recorded_runs, run_schedule, runs, sessions
from workers.ledger.states import DeliveryState, Outcome

PLACEHOLDER = "warm-up"


def compile_statements(engine: Engine) -> None:
    """Warm up the engine before a fork: children inherit what SQLAlchemy compiled, and open connections of their own.

    Raise SQLAlchemy's errors when the database is unavailable or not migrated.
    """
    try:
        warm_up(engine)
    finally:
        engine.dispose()


def warm_up(engine: Engine) -> None:
    """Run the statements of a batch and roll back. The connection stays open, and has them prepared.

    Raise SQLAlchemy's errors when the database is unavailable or not migrated.
    """
    now = datetime.now(UTC)
    delivery = Delivery(PLACEHOLDER, "events", PLACEHOLDER, PLACEHOLDER, now, "current", None, {}, b"", 1, PLACEHOLDER)
    run = runs.RunRecord(
        delivery_id=PLACEHOLDER, handler=PLACEHOLDER, queue=PLACEHOLDER, outcome=Outcome.DONE, finished_at=now
    )

    def update(session: Session) -> Session:
        return replace(session, statuses={"STARTED": StatusTimes(now, now, frozenset(str(len(session.statuses))))})

    with engine.connect() as conn:
        for _ in range(2):  # once with everything new, once with everything known
            deliveries.store(conn, [delivery], {PLACEHOLDER: (DeliveryState.RUNNING, None)})
            sessions.merge(conn, {PLACEHOLDER: update})
            run_schedule.wake_waiting(conn, [PLACEHOLDER], now)
            recorded_runs.existing(conn, [PLACEHOLDER])
            runs.insert_runs(conn, [run])
            delivery_states.refresh_states(conn, [PLACEHOLDER])
        conn.rollback()
