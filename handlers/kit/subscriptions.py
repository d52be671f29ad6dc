"""How a function says which events it wants: `@on` and `@record` mark it and leave it as it is."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from handlers.kit.markers import check_function, checked_name, file_of, markers_in
from handlers.kit.session import Session
from ingest.config.settings import Settings
from ingest.events import Event, SessionEvent

Function = TypeVar("Function", bound=Callable[..., object])

MARK = "__plugsurfing_subscription__"


@dataclass(frozen=True, slots=True)
class Subscription:
    """A function of a plugin, and the events it wants."""

    name: str
    events: tuple[type[Event], ...]
    queue: str | None
    """The queue its runs want: a job of their own there, unless their batch has come on it. None: their batch's."""
    function: Callable[..., object]
    plugin: str
    """The module that defines it."""
    file: str
    is_async: bool
    records: bool
    """Whether it is a `@record`: a pure part of the session's record, and not a handler."""
    when: Callable[[Settings], object] | None = None
    """Which settings ask for it; None: all of them."""

    def matches(self, event: Event) -> bool:
        """Whether the function wants this event."""
        return isinstance(event, self.events)

    def apply(self, session: Session, event: Event) -> Session:
        """Let a `@record` say what the session is once this event is known."""
        result = self.function(session, event)
        if not isinstance(result, Session):
            raise TypeError(f"@record {self.name} must return a Session, not {type(result).__name__}")
        if result.session_id != session.session_id:
            raise TypeError(f"@record {self.name} must return the session it was given, not another one")
        return result


def on(
    *event_types: type[Event],
    queue: str | None = None,
    name: str | None = None,
    when: Callable[[Settings], object] | None = None,
) -> Callable[[Function], Function]:
    """Mark a function as the handler of these events: `(event, ctx) -> None`, plain or async.

    A type stands for its subtypes too. With `queue` every run is a job of its own there, unless its batch has come on
    that queue; without, it runs in the job of its batch. The name (the function's, unless `name` is given) is what
    operators see and what the ledger keeps: renaming a handler makes it a new one. With `when`, a handler that the
    settings do not ask for gets no new runs.
    """
    _check_types("on", event_types, Event)

    def mark(function: Function) -> Function:
        return _mark("on", function, event_types, queue=queue, name=name, when=when)

    return mark


def record(*event_types: type[SessionEvent]) -> Callable[[Function], Function]:
    """Mark a pure function `(session, event) -> session` as part of the session's record.

    The events of a batch are folded into their sessions before any handler sees one of them. They come in any order
    and more than once, so the function must be a merge: commutative, associative, idempotent.
    """
    _check_types("record", event_types, SessionEvent)

    def mark(function: Function) -> Function:
        return _mark("record", function, event_types)

    return mark


def subscriptions_of(module: ModuleType) -> list[Subscription]:
    """List what a module itself defines, in that order: what it only imports belongs to another plugin."""
    return markers_in(module, MARK, Subscription)


def _check_types(mark: str, event_types: tuple[object, ...], wanted: type[Event]) -> None:
    if not event_types:
        raise TypeError(f"@{mark}() names no event: write for instance @{mark}(SessionStarted)")
    for event_type in event_types:
        if not inspect.isclass(event_type) or not issubclass(event_type, wanted):
            raise TypeError(f"@{mark} takes classes of ingest.events ({wanted.__name__}), not {event_type!r}")


def _mark(  # noqa: PLR0913 - the parts of a mark, by name
    mark: str,
    function: Function,
    event_types: tuple[type[Event], ...],
    *,
    queue: str | None = None,
    name: str | None = None,
    when: Callable[[Settings], object] | None = None,
) -> Function:
    check_function(function, mark, MARK)
    is_async = inspect.iscoroutinefunction(function)
    if mark == "record" and is_async:
        raise TypeError(f"@record {function.__name__} must be a plain function: a record waits for nothing")
    subscription = Subscription(
        name=checked_name(function.__name__ if name is None else name, "handler"),
        events=event_types,
        queue=queue,
        function=function,
        plugin=function.__module__,
        file=file_of(function),
        is_async=is_async,
        records=mark == "record",
        when=when,
    )
    setattr(function, MARK, subscription)
    return function
