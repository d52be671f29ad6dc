"""How a function says that it brings pushes to drivers: `@channel` and `@devices` mark it and leave it as it is."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import ModuleType
from typing import TypeVar

from ingest.errors import WebhooksError

Function = TypeVar("Function", bound=Callable[..., object])

MARK = "__plugsurfing_channel__"
NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


class PushFailed(WebhooksError):
    """Raised when a channel could not hand a push on; the sentence is for the operator and names nobody.

    It is tried again, not before `after` if that is given, unless `retryable` is false. Anything else that a channel
    raises is taken as such a failure.
    """

    def __init__(self, sentence: str, *, retryable: bool = True, after: timedelta | None = None) -> None:
        super().__init__(sentence)
        self.retryable = retryable
        self.after = after


class Unregistered(PushFailed):
    """Raised when the provider does not know the device any more; it is removed, and the push goes to the others."""

    def __init__(self, sentence: str = "the provider does not know the device any more") -> None:
        super().__init__(sentence, retryable=False)


@dataclass(frozen=True, slots=True)
class Device:
    """A driver's device as the provider of a channel knows it."""

    token: str = field(repr=False)
    platform: str | None = None
    """`android`, `ios` or `web`."""
    locale: str | None = None
    """As the app says it, `de` or `nl-BE`."""
    time_zone: str | None = None
    """A name of the IANA time zone database, `Europe/Berlin`."""


@dataclass(frozen=True, slots=True)
class OutgoingPush:
    """A push as a channel is given it, each time that it is to be sent."""

    id: str
    """The same at every attempt, so a provider that is told it can see a repeat."""
    user_id: str = field(repr=False)
    title: str
    body: str
    payload: Mapping[str, str]
    """What the app is told beside the words."""
    collapse_key: str
    """A newer push with the same key replaces the older one on the phone."""
    session_id: str | None
    created_at: datetime
    expires_at: datetime | None
    attempt: int
    """From 1."""
    timeout: timedelta
    """How long the channel may take; nobody waits for it any longer."""
    device: Device | None = None
    """Where it goes to, on a channel with `to_devices`."""


@dataclass(frozen=True, slots=True)
class OfferedChannel:
    """A function of a plugin that sends pushes."""

    name: str
    function: Callable[..., object]
    to_devices: bool
    is_async: bool
    file: str


@dataclass(frozen=True, slots=True)
class OfferedDevices:
    """A function of a plugin that knows the devices of users."""

    function: Callable[..., object]
    file: str


def channel(name: str, *, to_devices: bool = False) -> Callable[[Function], Function]:
    """Mark a function `(push: OutgoingPush) -> None`, plain or async, as the channel that PUSH calls by this name.

    It returns when the provider has taken the push, or raises `PushFailed`. It is called at least once for a push, in
    several threads at once, and never while a transaction is open. With `to_devices` it is called once for each device
    of the user, which is `push.device`, and may raise `Unregistered`.
    """
    if not NAME.fullmatch(name):
        raise TypeError(f"{name!r} cannot name a channel: use small letters, digits, _ and -, at most 40")

    def mark(function: Function) -> Function:
        is_async = inspect.iscoroutinefunction(function)
        return _mark(function, OfferedChannel(name, function, to_devices, is_async, _file_of(function)))

    return mark


def devices(function: Function) -> Function:
    """Mark a function `(user_id: str) -> list[Device]` that knows the devices, instead of the table `devices`."""
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"@devices {function.__name__} must be a plain function; it is called in a thread of its own")
    return _mark(function, OfferedDevices(function, _file_of(function)))


def offers_of(module: ModuleType) -> Iterator[OfferedChannel | OfferedDevices]:
    """List the channels and devices that a module itself defines: what it only imports belongs to another plugin."""
    for value in dict.fromkeys(each for each in vars(module).values() if inspect.isfunction(each)):
        offer = getattr(value, MARK, None)
        if isinstance(offer, OfferedChannel | OfferedDevices) and value.__module__ == module.__name__:
            if offer.function is not value:
                # functools.wraps copies the mark; calling what it names would leave the wrapper out.
                raise TypeError(f"the mark of {value.__name__} must stand above its other decorators")
            yield offer


def _mark(function: Function, offer: OfferedChannel | OfferedDevices) -> Function:
    if hasattr(function, MARK):
        raise TypeError(f"{function.__name__} is marked twice")
    setattr(function, MARK, offer)
    return function


def _file_of(function: Callable[..., object]) -> str:
    if not inspect.isfunction(function):
        raise TypeError(f"a mark stands above a function, not above {function!r}")
    file: str = inspect.unwrap(function).__code__.co_filename
    return file
