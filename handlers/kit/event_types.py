"""`@event` marks a class of a plugin as the events of a wire name that this version does not know."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from ingest.events import LONGEST_TEXT, WIRE_NAMES, SessionEvent

EventClass = TypeVar("EventClass", bound=type[SessionEvent])

MARK = "__plugsurfing_event__"


@dataclass(frozen=True, slots=True)
class EventType:
    """A class of events, and what the simulator sends as one of them."""

    model: type[SessionEvent]
    sample: Mapping[str, Any]
    """Fields of its payload beside the session, the user and the time."""


def event(
    wire_name: str, *, status: str | None = None, sample: Mapping[str, Any] | None = None
) -> Callable[[EventClass], EventClass]:
    """Mark a subclass of `SessionEvent` as the events of this name, once a plugin with it is loaded.

    `status` is the status of a session that such an event reports; without it, an event changes none. `sample` is what
    the payload has beside `sessionId`, `userId` and `timestamp`: `webhooks send` and `webhooks plugin test` send it.
    """
    if not wire_name or len(wire_name) > LONGEST_TEXT:
        raise TypeError(f"{wire_name!r} cannot name an event: use 1 to {LONGEST_TEXT} characters")
    if wire_name in WIRE_NAMES:
        raise TypeError(f"{wire_name} is known already: handle {WIRE_NAMES[wire_name].__name__}")

    def mark(model: EventClass) -> EventClass:
        if not issubclass(model, SessionEvent):
            raise TypeError(f"@event marks subclasses of SessionEvent, not {model.__name__}")
        name_class(model, wire_name, status)
        setattr(model, MARK, EventType(model, dict(sample or {})))
        return model

    return mark


def name_class(model: type[SessionEvent], wire_name: str, status: str | None) -> None:
    """Set the name and the status of the events of a class."""
    model.wire_name, model.session_status = wire_name, status
    model.model_fields["name"].default = wire_name
    model.model_rebuild(force=True)


def event_type_of(value: object) -> EventType | None:
    """Return how a class itself is marked; its subclasses are not."""
    found = vars(value).get(MARK) if inspect.isclass(value) else None
    return found if isinstance(found, EventType) else None


def event_types_of(module: ModuleType) -> list[EventType]:
    """Return the marked classes in a module, those that it has imported too, in its order."""
    return list(filter(None, map(event_type_of, vars(module).values())))
