"""`@on` marks a function as a handler of events, `@record` as a part of the session record."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Protocol, TypedDict, TypeVar, Unpack, overload

from handlers.kit.context import Context
from handlers.kit.markers import Marker, check_function, checked_name, markers_in
from handlers.kit.session import Session
from ingest.config.settings import Settings
from ingest.events import Event, SessionComplete, SessionEvent, SessionStarted, SessionStopped
from ingest.queue.batch import Delivery

Function = TypeVar("Function", bound=Callable[..., object])
First = TypeVar("First", bound=Event)
Second = TypeVar("Second", bound=Event)
Third = TypeVar("Third", bound=Event)
Fourth = TypeVar("Fourth", bound=Event)
Fifth = TypeVar("Fifth", bound=Event)
Sixth = TypeVar("Sixth", bound=Event)
Result = TypeVar("Result")
Marked = TypeVar("Marked", bound=Event)

MARK = "__plugsurfing_subscription__"
HEALABLE: Mapping[str, type[SessionEvent]] = MappingProxyType(
    {"STARTED": SessionStarted, "STOPPED": SessionStopped, "COMPLETE": SessionComplete}
)
"""The events that a status of the Drive API can stand for."""


@dataclass(frozen=True, slots=True)
class Subscription(Marker):
    """A function of a plugin, and the events that it handles."""

    name: str
    events: tuple[type[Event], ...]
    queue: str | None
    """Where each run is a job of its own, unless its batch came on that queue; None: runs share their batch's job."""
    records: bool
    """Whether it is marked `@record`, and is not a handler."""
    when: Callable[[Settings], object] | None = None
    """Whether it is enabled by the settings; None: always."""
    follows_driver: bool = False
    """Whether it runs again when a session has another driver than the one that it has pushed to."""
    healed: bool = False
    """Whether it is also called for what the Drive API says, where no event did."""

    def matches(self, event: Event) -> bool:
        """Return whether the function handles this event."""
        return isinstance(event, self.events)

    def accepts(self, delivery: Delivery) -> bool:
        """Return whether the function is called for deliveries of this source."""
        return self.healed or not delivery.is_healed

    def apply(self, session: Session, event: Event) -> Session:
        """Return the session after this event. Raise TypeError if the function returns something else."""
        result = self.function(session, event)
        if not isinstance(result, Session):
            raise TypeError(f"@record {self.name} must return a Session, not {type(result).__name__}")
        if result.session_id != session.session_id:
            raise TypeError(f"@record {self.name} must return the session that it was given, not another one")
        return result


class HandlerOptions(TypedDict, total=False):
    """What `@on` takes beside the events."""

    queue: str | None
    name: str | None
    when: Callable[[Settings], object] | None
    follows_driver: bool
    healed: bool


class HandlerDecorator(Protocol[Marked]):
    """What `@on` returns: it takes a handler of these events, and returns it unchanged."""

    def __call__(self, function: Callable[[Marked, Context], Result], /) -> Callable[[Marked, Context], Result]:
        """Mark the function."""


# One for each number of events: type checkers join the types of `*event_types` to what they share, not to a union.
@overload
def on(_1: type[First], /, **options: Unpack[HandlerOptions]) -> HandlerDecorator[First]: ...
@overload
def on(_1: type[First], _2: type[Second], /, **options: Unpack[HandlerOptions]) -> HandlerDecorator[First | Second]: ...
@overload
def on(
    _1: type[First], _2: type[Second], _3: type[Third], /, **options: Unpack[HandlerOptions]
) -> HandlerDecorator[First | Second | Third]: ...
@overload
def on(
    _1: type[First], _2: type[Second], _3: type[Third], _4: type[Fourth], /, **options: Unpack[HandlerOptions]
) -> HandlerDecorator[First | Second | Third | Fourth]: ...
@overload
def on(
    _1: type[First],
    _2: type[Second],
    _3: type[Third],
    _4: type[Fourth],
    _5: type[Fifth],
    /,
    **options: Unpack[HandlerOptions],
) -> HandlerDecorator[First | Second | Third | Fourth | Fifth]: ...
@overload
def on(
    _1: type[First],
    _2: type[Second],
    _3: type[Third],
    _4: type[Fourth],
    _5: type[Fifth],
    _6: type[Sixth],
    /,
    **options: Unpack[HandlerOptions],
) -> HandlerDecorator[First | Second | Third | Fourth | Fifth | Sixth]: ...
@overload
def on(*event_types: type[Event], **options: Unpack[HandlerOptions]) -> Callable[[Function], Function]: ...
def on(*event_types: type[Event], **options: Unpack[HandlerOptions]) -> Callable[[Function], Function]:
    """Mark a function as the handler of these events: `(event, ctx) -> None`, plain or async.

    A type includes its subtypes. With `queue` every run is a job of its own there, unless its batch has come on that
    queue; without, it runs in the job of its batch. The name (by default the function's) is what operators see and the
    ledger stores: a renamed handler is a new one. `when` disables it by the settings: then it gets no new runs. With
    `follows_driver` it runs again when the session of its event turns out to have another driver than the one that it
    has pushed to, before its push expires: what still waits for the former one is cancelled.

    With `healed` it is also called when no SESSION_STARTED, SESSION_STOPPED or SESSION_COMPLETE came and the Drive API
    says that it was so: `ctx.healed` is true then, and `event.at` may be hours ago. Once a session: the event itself,
    should it come later, has a moot run.
    """
    return _decorator("on", event_types, Event, **options)


def record(*event_types: type[SessionEvent]) -> Callable[[Function], Function]:
    """Mark a pure function `(session, event) -> session` as part of the session record.

    The events of a batch are applied to their sessions before any handler runs. They come in any order and more than
    once, so the function must be a merge: commutative, associative, idempotent.
    """
    return _decorator("record", event_types, SessionEvent)


def subscriptions_of(module: ModuleType) -> list[Subscription]:
    """Return the subscriptions that a module itself defines, in its order."""
    return markers_in(module, MARK, Subscription)


def _decorator(
    decorator: str,
    event_types: tuple[type[Event], ...],
    wanted: type[Event],
    **options: Unpack[HandlerOptions],
) -> Callable[[Function], Function]:
    _check_types(decorator, event_types, wanted)
    unknown = sorted(options.keys() - HandlerOptions.__annotations__.keys())
    if unknown:  # a misspelled one would be ignored in silence
        known = ", ".join(HandlerOptions.__annotations__)
        raise TypeError(f"@{decorator} has no option {', '.join(unknown)}; there are {known}")
    name, healed = options.get("name"), options.get("healed", False)
    if healed and not any(issubclass(each, event_types) for each in HEALABLE.values()):
        names = ", ".join(each.__name__ for each in HEALABLE.values())
        raise TypeError(f"@{decorator}(…, healed=True) needs one of {names}: the Drive API says no other")

    def mark(function: Function) -> Function:
        is_record = wanted is SessionEvent
        check_function(function, decorator, MARK, ("session", "event") if is_record else ("event", "ctx"))
        subscription = Subscription(
            function,
            checked_name(function.__name__ if name is None else name, "handler"),
            event_types,
            options.get("queue"),
            records=is_record,
            when=options.get("when"),
            follows_driver=options.get("follows_driver", False),
            healed=healed,
        )
        if subscription.records and subscription.is_async:
            raise TypeError(f"@record {function.__name__} must be a plain function: a record does not wait")
        setattr(function, MARK, subscription)
        return function

    return mark


def _check_types(decorator: str, event_types: tuple[object, ...], wanted: type[Event]) -> None:
    if not event_types:
        raise TypeError(f"@{decorator}() names no event: write for instance @{decorator}(SessionStarted)")
    for event_type in event_types:
        if not inspect.isclass(event_type) or not issubclass(event_type, wanted):
            raise TypeError(f"@{decorator} takes classes of ingest.events ({wanted.__name__}), not {event_type!r}")
