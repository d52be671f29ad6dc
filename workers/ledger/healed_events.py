"""Events that nobody sent: deliveries made from what was read at the Drive API, for handlers that ask for them.

Drive API -> merge -> [healed event] -> run -> handler

A run is due RECONCILE_AFTER after the time of its event. If the event itself comes before that run has begun, the run
is moot; if it comes later, the run of the event is. Both lock the record of the session before, so one of them sees
the other.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from handlers.kit.subscriptions import HEALABLE, Subscription
from ingest.events import Event, SessionEvent
from ingest.queue.batch import DRIVE_API, Delivery
from ingest.queue.queues import BACKGROUND
from ingest.wire.envelope import Kind, delivery_id
from workers.ledger import deliveries
from workers.ledger.database.conditions import in_list
from workers.ledger.delivery_states import refresh_states, states_of
from workers.ledger.runs import RunKey, RunRecord, insert_runs, locked_update
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import runs, to_json

EVENT_CAME = "the event came"
HEALED_BEFORE = "healed before: the handler was called for what the Drive API said"


@dataclass(frozen=True, slots=True)
class HealedEvent:
    """An event that did not come, as the Drive API tells it."""

    session_id: str
    status: str
    """A key of HEALABLE."""
    user_id: str | None
    at: datetime

    @property
    def event(self) -> SessionEvent:
        """The event."""
        return HEALABLE[self.status](session_id=self.session_id, user_id=self.user_id, at=self.at)

    def delivery(self, now: datetime) -> Delivery:
        """Return its delivery, with a body as the event's own."""
        event = self.event
        payload = {"sessionId": self.session_id, "userId": self.user_id, "timestamp": self.at.isoformat()}
        body = to_json({"event": event.name, "payload": {key: value for key, value in payload.items() if value}})
        return Delivery(
            id=str(healed_id(event)),
            kind=Kind.EVENTS.value,
            event=event.name,
            session_id=self.session_id,
            received_at=now,
            signed_with=DRIVE_API,
            signed_at=None,
            headers={},
            body=body.encode(),
            receipts=1,
            inbox=DRIVE_API,
        )


def healed_id(event: Event) -> str | None:
    """Return the id of the delivery that stands for an event, the same each time; None if none can."""
    if not isinstance(event, tuple(HEALABLE.values())):
        return None
    return delivery_id(Kind.EVENTS, f"healed {type(event).wire_name} {event.session_id}".encode())


def insert(
    conn: Connection,
    healed: Iterable[HealedEvent],
    handlers: Sequence[Subscription],
    now: datetime,
    grace: timedelta,
) -> bool:
    """Insert deliveries of these events and runs of the handlers; return whether there are any.

    A run is due when `grace` has passed since the time of its event. Call it in the transaction that has merged them.
    """
    arrived: list[Delivery] = []
    to_come: list[RunRecord] = []
    for each in healed:
        takers = [handler for handler in handlers if handler.healed and handler.matches(each.event)]
        if takers:
            arrived.append(each.delivery(now))
            to_come += [
                RunRecord(
                    delivery_id=arrived[-1].id,
                    handler=handler.name,
                    queue=handler.queue or BACKGROUND,
                    outcome=Outcome.WAITING,
                    due_at=max(now, each.at + grace),
                )
                for handler in takers
            ]
    if not arrived:
        return False
    states = states_of([(run.delivery_id, run.outcome) for run in to_come])
    new = deliveries.store(conn, arrived, {key: (state, None) for key, state in states.items()})
    insert_runs(conn, [run for run in to_come if run.delivery_id in new])
    return bool(new)


def cancel(conn: Connection, wanted: Mapping[str, Collection[str]], now: datetime) -> set[RunKey]:
    """End runs of healed events that have not begun: the events came. Return those that have.

    `wanted` has the handlers by the id of the healed delivery.
    """
    if not wanted:
        return set()
    of_these = (
        in_list(runs.c.delivery_id, set(wanted)),
        in_list(runs.c.handler, {name for names in wanted.values() for name in names}),
    )
    moot = {"outcome": Outcome.MOOT, "reason": EVENT_CAME, "due_at": None, "job_id": None, "finished_at": now}
    to_come = locked_update(*of_these, runs.c.outcome == Outcome.WAITING, runs.c.attempts == 0)
    cancelled = set(conn.scalars(to_come.values(**moot).returning(runs.c.delivery_id)))
    refresh_states(conn, cancelled)
    return begun(conn, wanted)


def begun(conn: Connection, delivery_ids: Collection[str]) -> set[RunKey]:
    """Return the keys of the runs of these healed deliveries that have begun."""
    query = select(runs.c.delivery_id, runs.c.handler)
    found = conn.execute(query.where(in_list(runs.c.delivery_id, set(delivery_ids)), runs.c.attempts > 0))
    return {(delivery_id, handler) for delivery_id, handler in found}
