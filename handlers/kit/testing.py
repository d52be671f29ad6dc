"""Test a plugin without a worker, a queue or a database.

Call the handler with a context for its event, then check what it wrote:

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

Call a policy with a request and a context with the keys, balances and open sessions of the test:

>>> from handlers import Allowed, AuthorizationRequest, AuthorizeContext, Decision, authorize
>>> from handlers.kit.testing import authorization_request, policy_context
>>> @authorize()
... def only_at_home(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
...     return None if request.location_id == "home" else Decision(Allowed.NOT_ALLOWED)
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
from handlers.kit.context import Context
from handlers.kit.key_identifiers import candidate_spellings, normalize
from handlers.kit.policies import BalanceSnapshot, ChargingKeySnapshot
from handlers.kit.session import Session
from ingest.config.settings import Settings
from ingest.events import ChargingRecord, Event, SessionEvent
from ingest.queue.batch import DRIVE_API, Delivery
from ingest.wire.authorization.request import AuthorizationRequest, WireFormat
from ingest.wire.envelope import Kind

Columns = TypeVarTuple("Columns")

DEFAULT_NOW = datetime(2025, 6, 12, 12, tzinfo=UTC)


class FakeReader:
    """Returns the given sessions and devices; SELECTs run on the given connection, an in-memory SQLite for instance."""

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
        """Return one of the sessions."""
        return self._sessions.get(session_id)

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT on the connection."""
        if self._connection is None:
            raise LookupError("ctx.read() needs a database: context_for(event, connection=...)")
        return list(self._connection.execute(statement).all())

    def devices(self, user_id: str) -> Sequence[Device]:  # noqa: ARG002 - all users have the same
        """Return the devices."""
        return self._devices


def context_for(  # noqa: PLR0913 - the parts of a context, by name
    event: Event,
    *,
    sessions: Iterable[Session] = (),
    now: datetime | None = None,
    attempt: int = 1,
    connection: Connection | None = None,
    devices: Sequence[Device] = (),
    settings: Mapping[str, object] | None = None,
    healed: bool = False,
) -> Context:
    """Return a context for this event; `now` is by default the time of the event.

    `healed` is `ctx.healed`: as if the event was made from what was read at the Drive API.

    Settings are given by their names in lower case, `{"default_locale": "de"}`. The others have their defaults: the
    environment is not read.
    """
    at = now or (event.at if isinstance(event, SessionEvent) else DEFAULT_NOW)
    return Context(
        delivery=delivery_of(event, received_at=at, healed=healed),
        reader=FakeReader(sessions, connection, devices),
        attempt=attempt,
        clock=lambda: at,
        log=structlog.get_logger(),
        settings=Settings.model_construct(None, **dict(settings or {})),
    )


def delivery_of(event: Event, *, received_at: datetime, healed: bool = False) -> Delivery:
    """Return a delivery of the event, with an empty body."""
    return Delivery(
        id="0" * 32,
        kind=Kind.CDRS if isinstance(event, ChargingRecord) else Kind.EVENTS,
        event=event.name,
        session_id=event.session_id,
        received_at=received_at,
        signed_with=DRIVE_API if healed else "current",
        signed_at=None,
        headers={},
        body=b"{}",
        receipts=1,
        inbox=DRIVE_API if healed else "test",
    )


class FakePolicyContext(FakeReader):
    """A context for a policy, in which everything was read just now.

    `keys` is the whole list, None if it was never read; `balances` are by user; `open_sessions` are ids by key or user,
    None if they were never read. Settings are as in `context_for`.
    """

    def __init__(  # noqa: PLR0913 - the parts of a context, by name
        self,
        *,
        keys: Iterable[ChargingKeySnapshot] | None = (),
        balances: Mapping[str, Decimal | BalanceSnapshot] = MappingProxyType({}),
        open_sessions: Mapping[str, Collection[str]] | None = MappingProxyType({}),
        sessions: Iterable[Session] = (),
        now: datetime = DEFAULT_NOW,
        connection: Connection | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(sessions, connection)
        self.settings = Settings.model_construct(None, **dict(settings or {}))
        self.log = structlog.get_logger()
        self._now = now
        self._keys = None if keys is None else {normalize(key.identifier): key for key in keys}
        self._balances = balances
        self._open_sessions = open_sessions

    def now(self) -> datetime:
        """Return the time of the test."""
        return self._now

    def charging_key(self, identifier: str) -> ChargingKeySnapshot | None:
        """Return one of the keys, by its identifier in any spelling."""
        spellings = candidate_spellings(identifier, self.settings.authorize_key_bytes)
        return next((self._keys[each] for each in spellings if each in self._keys), None) if self._keys else None

    def charging_key_by_number(self, visual_number: str) -> ChargingKeySnapshot | None:
        """Return one of the keys, by the number on its card."""
        found = [key for key in (self._keys or {}).values() if key.visual_number == visual_number]
        return min(found, key=lambda key: not key.enabled, default=None)

    def keys_synced_at(self) -> datetime | None:
        """Return the oldest time of the keys, by default now."""
        if self._keys is None:
            return None
        return min((key.read_at for key in self._keys.values() if key.read_at is not None), default=self._now)

    def balance(self, user_id: str) -> BalanceSnapshot | None:
        """Return one of the balances."""
        balance = self._balances.get(user_id)
        return BalanceSnapshot(balance, self._now) if isinstance(balance, Decimal) else balance

    def open_sessions(self, key: str | None, user_id: str | None = None) -> Collection[str]:
        """Return the given sessions of the key and of the user."""
        names = (
            *(candidate_spellings(key, self.settings.authorize_key_bytes) if key else ()),
            *((user_id,) if user_id else ()),
        )
        return {each for name in names for each in (self._open_sessions or {}).get(name, ())}

    def sessions_read_at(self) -> datetime | None:
        """Return now, or None without open sessions."""
        return None if self._open_sessions is None else self._now


policy_context = FakePolicyContext


def authorization_request(**parts: Any) -> AuthorizationRequest:
    """Return an authorization request with these fields, by default in Plugsurfing's format at DEFAULT_NOW."""
    return AuthorizationRequest(**{"form": WireFormat.PLUGSURFING, "received_at": DEFAULT_NOW, **parts})
