"""What a handler is given beside its event, and how what it writes is collected until its outcome is committed."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVarTuple

from sqlalchemy import Executable, Row
from sqlalchemy.sql.selectable import TypedReturnsRows
from structlog.typing import FilteringBoundLogger

from handlers.kit.channel import Device
from handlers.kit.session import Session, SessionWithDriver
from handlers.kit.signals import RetryLater
from handlers.kit.templates import NotificationTemplate, NotificationText, Recipient
from ingest.config.settings import Settings
from ingest.queue.batch import Delivery

Columns = TypeVarTuple("Columns")

KEY_BYTES = 200
"""The longest collapse or idempotency key kept as it is: any key must fit a database index."""


@dataclass(frozen=True, slots=True)
class Push:
    """What a driver is to be told, once the run that asked for it is done.

    Sent at least once, shown once: a newer push with the same `collapse_key` replaces the older one on the phone.
    Of several pushes with the same `idempotency_key` only the first is sent, whichever runs asked for them.
    It is not sent after `expires_at`, nor once the session with `session_id` is over.
    """

    user_id: str
    title: str
    body: str
    collapse_key: str
    session_id: str | None = None
    expires_at: datetime | None = None
    idempotency_key: str | None = None
    payload: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeferredStatement:
    """A statement to be run, with the values of its parameters if it names some."""

    statement: Executable
    values: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class DeferredEffects:
    """What a run wants committed together with its outcome, in the order in which it was asked for."""

    pushes: tuple[Push, ...] = ()
    written: tuple[DeferredStatement, ...] = ()


class Reader(Protocol):
    """Where a context reads from. Every read is a short transaction of its own."""

    def session(self, session_id: str) -> Session | None:
        """Find the record of a session."""

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT."""

    def devices(self, user_id: str) -> Sequence[Device]:
        """List a user's devices, the one heard of last first; none if they are not known."""


class Context(Protocol):
    """What a handler is given beside its event.

    Handlers run at least once: after a crash a run is begun anew. What is written through the context takes effect
    exactly once, when the handler returns; what a handler does by other means must bear being done twice.
    """

    @property
    def delivery(self) -> Delivery:
        """The delivery that brought the event: its id, its kind, the event's name, when it was received."""

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""

    @property
    def log(self) -> FilteringBoundLogger:
        """A log that names the delivery and the handler in every line. Keep user ids out of it."""

    @property
    def settings(self) -> Settings:
        """The settings of the house. A plugin with settings of its own reads them when it is imported."""

    def now(self) -> datetime:
        """Tell the time."""

    def audience(self, user_id: str) -> Recipient:
        """Tell in which language and on which clock a user reads; their latest device says it, else the settings."""

    def render(
        self, wording: NotificationTemplate, user_id: str, *, kind: str = "", **facts: object
    ) -> NotificationText:
        """Render a template in the user's language and time zone; see `handlers.kit.templates`."""

    def session(self, session_id: str, *, until: datetime | None = None) -> SessionWithDriver:
        """Find a session and its driver.

        Raises `RetryLater` while no driver is known: the run goes on when the session has news, or ends moot once
        `until` has passed.
        """

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT on the ledger now. It does not see what this run has written."""

    def write(self, statement: Executable, values: Mapping[str, object] | None = None) -> None:
        """Run an INSERT, UPDATE or DELETE in the transaction that commits the outcome of this run.

        A statement that is made once, in the module, and given its `values` here, is run once for all runs of a batch:
        ten times as fast as one made for each of them.
        """

    def push(  # noqa: PLR0913 - the parts of a push, by name
        self,
        user_id: str,
        *,
        title: str,
        body: str,
        collapse_key: str,
        session_id: str | None = None,
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
        payload: Mapping[str, str] | None = None,
    ) -> None:
        """Tell a driver something, once the outcome of this run is committed; see `Push`."""


class RecordingContext:
    """The context that workers and tests use: it reads at once and only collects what is written."""

    def __init__(  # noqa: PLR0913 - all that a handler may touch, by name
        self,
        *,
        delivery: Delivery,
        reader: Reader,
        attempt: int,
        clock: Callable[[], datetime],
        log: FilteringBoundLogger,
        settings: Settings,
    ) -> None:
        self.delivery = delivery
        self.attempt = attempt
        self.log = log
        self.settings = settings
        self._reader = reader
        self._clock = clock
        self._pushes: list[Push] = []
        self._written: list[DeferredStatement] = []
        self._looked: dict[str, Session | None] = {}

    @property
    def writes(self) -> DeferredEffects:
        """What was written so far."""
        return DeferredEffects(tuple(self._pushes), tuple(self._written))

    @property
    def sessions_read(self) -> Mapping[str, Session | None]:
        """The sessions that were asked for, as they were at first; None for one of which nothing was known."""
        return self._looked

    def now(self) -> datetime:
        """Tell the time."""
        return self._clock()

    def audience(self, user_id: str) -> Recipient:
        """Ask the user's devices; each may know only one of the two."""
        devices = self._reader.devices(user_id)
        return Recipient(
            next((each.locale for each in devices if each.locale), self.settings.default_locale),
            next((each.time_zone for each in devices if each.time_zone), self.settings.default_time_zone),
        )

    def render(
        self, wording: NotificationTemplate, user_id: str, *, kind: str = "", **facts: object
    ) -> NotificationText:
        """Fill in the template that fits the user best."""
        return wording.words(
            self.audience(user_id),
            facts,
            now=self.now(),
            kind=kind,
            default_locale=self.settings.default_locale,
            folder=self.settings.templates_dir,
        )

    def session(self, session_id: str, *, until: datetime | None = None) -> SessionWithDriver:
        """Find a session and its driver, or raise `RetryLater`."""
        session = self._reader.session(session_id)
        self._looked.setdefault(session_id, session)
        if session is None or session.user_id is None:
            raise RetryLater("no event of the session has named its driver", until=until, session_id=session_id)
        return SessionWithDriver(session.session_id, session.statuses, session.users, session.fees, session.lead)

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT now."""
        return self._reader.read(statement)

    def write(self, statement: Executable, values: Mapping[str, object] | None = None) -> None:
        """Collect a statement."""
        self._written.append(DeferredStatement(statement, values))

    def push(  # noqa: PLR0913 - the parts of a push, by name
        self,
        user_id: str,
        *,
        title: str,
        body: str,
        collapse_key: str,
        session_id: str | None = None,
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
        payload: Mapping[str, str] | None = None,
    ) -> None:
        """Collect a push."""
        if expires_at is not None and expires_at.tzinfo is None:
            raise ValueError("expires_at= needs a time zone, or nobody knows when it has passed")
        self._pushes.append(
            Push(
                user_id=user_id,
                title=title,
                body=body,
                collapse_key=_key(collapse_key),
                session_id=session_id,
                expires_at=expires_at,
                idempotency_key=None if idempotency_key is None else _key(idempotency_key),
                payload=dict(payload or {}),
            )
        )


def _key(text: str) -> str:
    """Keep a key as it is, or its digest if it is too long for an index: parts of it may come from the wire."""
    raw = text.encode("utf-8", "surrogatepass")
    return text if len(raw) <= KEY_BYTES else hashlib.sha256(raw).hexdigest()
