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

A policy is called with a question and a context that knows what it is told:

>>> from handlers import Allowed, AuthorizationRequest, AuthorizeContext, Decision, authorize
>>> from handlers.kit.testing import authorization_request, policy_context
>>> @authorize()
... def only_at_home(question: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
...     return None if question.location_id == "home" else Decision(Allowed.NOT_ALLOWED)
>>> only_at_home(authorization_request(location_id="elsewhere"), policy_context()).allowed
<Allowed.NOT_ALLOWED: 'NOT_ALLOWED'>
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeVarTuple

import structlog
from sqlalchemy import Connection, Row
from sqlalchemy.sql.selectable import TypedReturnsRows

from handlers.kit.channel import Device
from handlers.kit.context import RecordingContext
from handlers.kit.key_identifiers import candidate_spellings, normalize
from handlers.kit.policies import BalanceSnapshot, ChargingKeySnapshot
from handlers.kit.session import Session
from ingest.config.settings import Settings
from ingest.events import ChargingRecord, Event, SessionEvent
from ingest.queue.batch import Delivery
from ingest.wire.authorization.request import AuthorizationRequest, WireFormat
from ingest.wire.envelope import Kind

Columns = TypeVarTuple("Columns")

DEFAULT_NOW = datetime(2025, 6, 12, 12, tzinfo=UTC)


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
) -> RecordingContext:
    """Make the context in which a handler meets this event: `now` unless given is when the event happened.

    Settings are given by their names in lower case, `{"default_locale": "de"}`, and are otherwise their defaults: the
    environment has no say.
    """
    moment = now or (event.at if isinstance(event, SessionEvent) else DEFAULT_NOW)
    return RecordingContext(
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


class FakePolicyContext(FakeReader):
    """The context of a policy; it knows what it was told, all of it as of now."""

    def __init__(  # noqa: PLR0913 - all that a policy may ask, by name
        self,
        *,
        settings: Settings,
        now: datetime,
        keys: Iterable[ChargingKeySnapshot] | None,
        balances: Mapping[str, Decimal | BalanceSnapshot],
        running: Mapping[str, Collection[str]] | None,
        sessions: Iterable[Session] = (),
        connection: Connection | None = None,
    ) -> None:
        super().__init__(sessions, connection)
        self.settings = settings
        self.log = structlog.get_logger()
        self._now = now
        self._keys = None if keys is None else {normalize(key.identifier): key for key in keys}
        self._balances = balances
        self._running = running

    def now(self) -> datetime:
        """Tell the time."""
        return self._now

    def charging_key(self, identifier: str) -> ChargingKeySnapshot | None:
        """Find one of the keys, however it is spelt."""
        spelt = candidate_spellings(identifier, self.settings.authorize_key_bytes)
        return next((self._keys[each] for each in spelt if each in self._keys), None) if self._keys else None

    def keys_synced_at(self) -> datetime | None:
        """Say when: now, or when one of the keys was read."""
        if self._keys is None:
            return None
        return min((key.read_at for key in self._keys.values() if key.read_at is not None), default=self._now)

    def balance(self, user_id: str) -> BalanceSnapshot | None:
        """Find one of the balances."""
        found = self._balances.get(user_id)
        return BalanceSnapshot(found, self._now) if isinstance(found, Decimal) else found

    def open_sessions(self, key: str | None, user_id: str | None = None) -> Collection[str]:
        """Name those that were given for the key and for the user."""
        names = (
            *(candidate_spellings(key, self.settings.authorize_key_bytes) if key else ()),
            *((user_id,) if user_id else ()),
        )
        return {each for name in names for each in (self._running or {}).get(name, ())}

    def sessions_read_at(self) -> datetime | None:
        """Say when: now."""
        return None if self._running is None else self._now


def authorization_request(**parts: Any) -> AuthorizationRequest:
    """Make a question at a charger; what is not named is not known, but that it came in Plugsurfing's form at noon."""
    return AuthorizationRequest(**{"form": WireFormat.PLUGSURFING, "received_at": DEFAULT_NOW, **parts})


def policy_context(  # noqa: PLR0913 - all that a policy may ask, by name
    *,
    keys: Iterable[ChargingKeySnapshot] | None = (),
    balances: Mapping[str, Decimal | BalanceSnapshot] | None = None,
    running: Mapping[str, Collection[str]] | None = MappingProxyType({}),
    sessions: Iterable[Session] = (),
    now: datetime = DEFAULT_NOW,
    connection: Connection | None = None,
    settings: Mapping[str, object] | None = None,
) -> FakePolicyContext:
    """Make the context in which a policy is asked.

    `keys` are all that are listed, None stands for a list that was never read; `balances` are by user; `running` are
    ids of sessions by the key or the user, None if the ledger has not answered. Settings are as in `context_for`.
    """
    return FakePolicyContext(
        settings=Settings.model_construct(None, **dict(settings or {})),
        now=now,
        keys=keys,
        balances=balances or {},
        running=running,
        sessions=sessions,
        connection=connection,
    )
