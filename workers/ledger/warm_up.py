"""Does a batch's work once for nothing, so that a process that forks afterwards has it at its fingertips."""

from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Engine

from handlers.kit.session import Session, StatusTimes
from ingest.queue.batch import Delivery
from workers.ledger import deliveries, delivery_states, run_schedule, runs, sessions
from workers.ledger.states import DeliveryState, Outcome

PLACEHOLDER = "rehearsal"


def warm_up(engine: Engine) -> None:
    """Compile the statements of a batch, learn what there is to know about the database, and leave nothing behind.

    All connections are closed in the end: a child has the engine's knowledge, and opens its own.
    Raises SQLAlchemy's errors when the database is away or not migrated.
    """
    now = datetime.now(UTC)
    delivery = Delivery(PLACEHOLDER, "events", PLACEHOLDER, PLACEHOLDER, now, "current", None, {}, b"", 1, PLACEHOLDER)
    run = runs.NewRun(
        delivery_id=PLACEHOLDER, handler=PLACEHOLDER, queue=PLACEHOLDER, outcome=Outcome.DONE, finished_at=now
    )

    def fold(session: Session) -> Session:
        return replace(session, statuses={"STARTED": StatusTimes(now, now, frozenset(str(len(session.statuses))))})

    try:
        with engine.connect() as conn:
            for _ in range(2):  # once with everything new, once with everything known
                deliveries.store(conn, [delivery], {PLACEHOLDER: (DeliveryState.RUNNING, None)})
                sessions.merge(conn, {PLACEHOLDER: fold})
                run_schedule.wake_waiting(conn, [PLACEHOLDER], now)
                runs.existing(conn, [PLACEHOLDER])
                runs.insert_runs(conn, [run])
                delivery_states.refresh_states(conn, [PLACEHOLDER])
            conn.rollback()
    finally:
        engine.dispose()
