"""Does a batch's work once for nothing, so that a process that forks afterwards has it at its fingertips."""

from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Engine

from handlers.kit.session import Session, StatusTimes
from ingest.queue.batch import Delivery
from workers.ledger import deliveries, runs, schedule, sessions, states
from workers.ledger.outcomes import DeliveryState, Outcome

NOBODY = "rehearsal"


def rehearse(engine: Engine) -> None:
    """Compile the statements of a batch, learn what there is to know about the database, and leave nothing behind.

    All connections are closed in the end: a child has the engine's knowledge, and opens its own.
    Raises SQLAlchemy's errors when the database is away or not migrated.
    """
    now = datetime.now(UTC)
    delivery = Delivery(NOBODY, "events", NOBODY, NOBODY, now, "current", None, {}, b"", 1, NOBODY)
    run = runs.NewRun(delivery_id=NOBODY, handler=NOBODY, queue=NOBODY, outcome=Outcome.DONE, finished_at=now)

    def fold(session: Session) -> Session:
        return replace(session, statuses={"STARTED": StatusTimes(now, now, frozenset(str(len(session.statuses))))})

    try:
        with engine.connect() as conn:
            for _ in range(2):  # once with everything new, once with everything known
                deliveries.store(conn, [delivery], {NOBODY: (DeliveryState.RUNNING, None)})
                sessions.merge(conn, {NOBODY: fold})
                schedule.wake(conn, [NOBODY], now)
                runs.recorded(conn, [NOBODY])
                runs.record_new(conn, [run])
                states.refresh_states(conn, [NOBODY])
            conn.rollback()
    finally:
        engine.dispose()
