"""The context of a handler: it reads at once, and collects what is written until the run's outcome is committed."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Protocol, TypeVarTuple

from sqlalchemy import Executable, Row
from sqlalchemy.sql.selectable import TypedReturnsRows
from structlog.typing import FilteringBoundLogger

from handlers.kit.channel import Device
from handlers.kit.localtime import parse_locale, parse_time_zone
from handlers.kit.session import Session, SessionWithDriver
from handlers.kit.signals import RetryLater
from handlers.kit.templates import NotificationTemplate, NotificationText, Recipient
from ingest.config.settings import Settings
from ingest.queue.batch import Delivery

Columns = TypeVarTuple("Columns")

MAX_KEY_BYTES = 200
"""A longer collapse or idempotency key is stored as its digest: any key must fit a database index."""


@dataclass(frozen=True, slots=True)
class Push:
    """A notification to a driver, sent once the run that made it is committed.

    Sent at least once, shown once: a newer push with the same `collapse_key` replaces the older one on the phone.
    Of several pushes with the same `idempotency_key` only the first is sent, whichever runs made them.
    It is not sent after `expires_at`. It belongs to the session with `session_id`, and is not sent once that is over
    for the event of the run, unless it is sent `even_if_over`: a receipt, for instance.
    """

    user_id: str
    title: str
    body: str
    collapse_key: str
    session_id: str | None = None
    even_if_over: bool = False
    expires_at: datetime | None = None
    idempotency_key: str | None = None
    payload: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeferredStatement:
    """A statement to be executed, with the values of its parameters if it has some."""

    statement: Executable
    values: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class DeferredEffects:
    """What a run writes: committed together with its outcome, in this order."""

    pushes: tuple[Push, ...] = ()
    written: tuple[DeferredStatement, ...] = ()


class Reader(Protocol):
    """Where a context reads from. Every read is a short transaction of its own."""

    def session(self, session_id: str) -> Session | None:
        """Return the record of a session."""

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT."""

    def devices(self, user_id: str) -> Sequence[Device]:
        """Return a user's devices, the most recently seen first; empty if none is known."""


class Context:
    """What a handler is given beside its event. Workers and `handlers.kit.testing` make it.

    Handlers run at least once: after a crash a run starts again. What is written through the context takes effect
    exactly once, when the handler returns; any other effect of a handler must be safe to repeat.
    """

    def __init__(  # noqa: PLR0913 - the parts of a context, by name
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
        """The delivery of the event: its id, its kind, the event's name, when it was received."""
        self.attempt = attempt
        """The number of this attempt, from 1."""
        self.log = log
        """A log that has the delivery and the handler in every line. Do not log user ids."""
        self.settings = settings
        """The settings of the process. A plugin with settings of its own reads them when it is imported."""
        self._reader = reader
        self._clock = clock
        self._pushes: list[Push] = []
        self._written: list[DeferredStatement] = []
        self._sessions_read: dict[str, Session | None] = {}

    @property
    def healed(self) -> bool:
        """Whether nobody sent the event: it is made from what was read at the Drive API, for `@on(…, healed=True)`."""
        return self.delivery.is_healed

    def now(self) -> datetime:
        """Return the current time."""
        return self._clock()

    def recipient(self, user_id: str) -> Recipient:
        """Return a user's language and time zone: of their most recently seen device, else of the settings."""
        devices = self._reader.devices(user_id)
        return Recipient(
            next(filter(None, (parse_locale(each.locale) for each in devices)), self.settings.default_locale),
            next(filter(None, (parse_time_zone(each.time_zone) for each in devices)), self.settings.default_time_zone),
        )

    def render(
        self, template: NotificationTemplate, user_id: str, *, kind: str = "", **values: object
    ) -> NotificationText:
        """Render a template in the user's language and time zone; see `handlers.kit.templates`."""
        return template.render(
            self.recipient(user_id),
            values,
            now=self.now(),
            kind=kind,
            default_locale=self.settings.default_locale,
            folder=self.settings.templates_dir,
        )

    def session(self, session_id: str, *, until: datetime | None = None) -> SessionWithDriver:
        """Return a session whose driver is known.

        Raise `RetryLater` while it is not: the run goes on when the session has a new event, or ends moot once `until`
        has passed.
        """
        session = self._reader.session(session_id)
        self._sessions_read.setdefault(session_id, session)
        if session is None or session.user_id is None:
            raise RetryLater("no event of the session has named its driver", until=until, session_id=session_id)
        return SessionWithDriver(**{each.name: getattr(session, each.name) for each in fields(session)})

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT on the ledger now. It does not see what this run has written."""
        return self._reader.read(statement)

    def write(self, statement: Executable, values: Mapping[str, object] | None = None) -> None:
        """Execute an INSERT, UPDATE or DELETE in the transaction that commits the outcome of this run.

        A statement that is a constant of the module, with its `values` given here, is executed once for all runs of a
        batch: ten times as fast as one made for each run.
        """
        self._written.append(DeferredStatement(statement, values))

    def push(  # noqa: PLR0913 - the parts of a push, by name
        self,
        user_id: str,
        *,
        title: str,
        body: str,
        collapse_key: str,
        session_id: str | None = None,
        even_if_over: bool = False,
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
        payload: Mapping[str, str] | None = None,
    ) -> None:
        """Send a notification to a driver, once the outcome of this run is committed; see `Push`."""
        if expires_at is not None and expires_at.tzinfo is None:
            raise ValueError("expires_at= needs a time zone")
        self._pushes.append(
            Push(
                user_id=user_id,
                title=title,
                body=body,
                collapse_key=_bounded_key(collapse_key),
                session_id=session_id,
                even_if_over=even_if_over,
                expires_at=expires_at,
                idempotency_key=None if idempotency_key is None else _bounded_key(idempotency_key),
                payload=dict(payload or {}),
            )
        )

    @property
    def writes(self) -> DeferredEffects:
        """What was written so far."""
        return DeferredEffects(tuple(self._pushes), tuple(self._written))

    @property
    def sessions_read(self) -> Mapping[str, Session | None]:
        """The sessions that were read, as they were at first; None for one that was not known."""
        return self._sessions_read


def _bounded_key(text: str) -> str:
    """Return a key, or its digest if it is too long for an index: parts of it may come from the wire."""
    raw = text.encode("utf-8", "surrogatepass")
    return text if len(raw) <= MAX_KEY_BYTES else hashlib.sha256(raw).hexdigest()
