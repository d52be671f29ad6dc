"""Try a plugin without a worker, a queue or a database.

Call the handler with a context made for its event, then look at what it wrote:

>>> from datetime import UTC, datetime
>>> from handlers import Context, on
>>> from handlers.kit.testing import context_for
>>> from handlers.session_records import session_of
>>> from ingest.events import SessionComplete
>>> @on(SessionComplete)
... def thank_the_driver(event: SessionComplete, ctx: Context) -> None:
...     ctx.push(ctx.session(event.session_id).user_id, title="Thank you", body="Bye.", collapse_key="thanks")
>>> event = SessionComplete(session_id="L60XMxWy0oP", user_id="user1", at=datetime(2025, 6, 12, 11, tzinfo=UTC))
>>> ctx = context_for(event, sessions=[session_of(event)])
>>> thank_the_driver(event, ctx)
>>> ctx.writes.pushes[0].title
'Thank you'
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVarTuple

import structlog
from sqlalchemy import Connection, Row
from sqlalchemy.sql.selectable import TypedReturnsRows

from handlers.kit.channel import Device
from handlers.kit.context import CollectingContext
from handlers.kit.session import Session
from ingest.batch import Delivery
from ingest.envelope import Kind
from ingest.events import ChargingRecord, Event, SessionEvent
from ingest.settings import Settings

Columns = TypeVarTuple("Columns")

NOON = datetime(2025, 6, 12, 12, tzinfo=UTC)


class FakeReader:
    """Finds the sessions it was given; SELECTs run on the connection it was given, an in-memory SQLite for instance."""

    def __init__(
        self,
        sessions: Iterable[Session] = (),
        connection: Connection | None = None,
        devices: Sequence[Device] = (),
    ) -> None:
        self._sessions = {session.session_id: session for session in sessions}
        self._connection = connection
        self._devices = devices

    def session(self, session_id: str) -> Session | None:
        """Find one of the sessions."""
        return self._sessions.get(session_id)

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT on the connection."""
        if self._connection is None:
            raise LookupError("ctx.read() needs a database: context_for(event, connection=...)")
        return list(self._connection.execute(statement).all())

    def devices(self, user_id: str) -> Sequence[Device]:  # noqa: ARG002 - they are everybody's
        """List the devices."""
        return self._devices


def context_for(  # noqa: PLR0913 - all that a handler may touch, by name
    event: Event,
    *,
    sessions: Iterable[Session] = (),
    now: datetime | None = None,
    attempt: int = 1,
    connection: Connection | None = None,
    devices: Sequence[Device] = (),
    settings: Mapping[str, object] | None = None,
) -> CollectingContext:
    """Make the context in which a handler meets this event: `now` unless given is when the event happened.

    Settings are given by their names in lower case, `{"default_locale": "de"}`, and are otherwise their defaults: the
    environment has no say.
    """
    moment = now or (event.at if isinstance(event, SessionEvent) else NOON)
    return CollectingContext(
        delivery=delivery_of(event, received_at=moment),
        reader=FakeReader(sessions, connection, devices),
        attempt=attempt,
        clock=lambda: moment,
        log=structlog.get_logger(),
        settings=Settings.model_construct(None, **dict(settings or {})),
    )


def delivery_of(event: Event, *, received_at: datetime) -> Delivery:
    """Make a delivery that could have brought the event, but for its body."""
    return Delivery(
        id="0" * 32,
        kind=Kind.CDRS if isinstance(event, ChargingRecord) else Kind.EVENTS,
        event=event.name,
        session_id=event.session_id,
        received_at=received_at,
        signed_with="current",
        signed_at=None,
        headers={},
        body=b"{}",
        receipts=1,
        inbox="test",
    )
