"""`@channel` marks a function that sends pushes, `@devices` one that knows the devices of drivers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import ModuleType
from typing import TypeVar

from handlers.kit.markers import Marker, check_function, markers_in
from handlers.kit.signals import clamp_delay
from ingest.errors import WebhooksError

Function = TypeVar("Function", bound=Callable[..., object])

MARK = "__plugsurfing_channel__"
NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


class PushFailed(WebhooksError):
    """Raised when a channel could not send a push; the sentence is for the operator and has no user ids.

    It is tried again, after `after` if that is given, unless `retryable` is false. Any other exception of a channel
    counts as this one. With `throttled` the provider wants fewer calls a second.
    """

    def __init__(
        self, sentence: str, *, retryable: bool = True, after: timedelta | None = None, throttled: bool = False
    ) -> None:
        super().__init__(sentence)
        self.retryable = retryable
        self.throttled = throttled
        self.after = clamp_delay(after)


class Unregistered(PushFailed):
    """Raised when the provider no longer knows the device; it is removed, and the push goes to the others."""

    def __init__(self, sentence: str = "the provider no longer knows the device") -> None:
        super().__init__(sentence, retryable=False)


@dataclass(frozen=True, slots=True)
class Device:
    """A driver's device at the provider of a channel."""

    token: str = field(repr=False)
    platform: str | None = None
    """`android`, `ios` or `web`."""
    locale: str | None = None
    """Any spelling that an app sends: `de`, `nl-BE`, `de_DE.UTF-8`; the default counts where it names no language."""
    time_zone: str | None = None
    """`Europe/Berlin`, or an offset such as `GMT+02:00`; the default counts where it is not known."""


@dataclass(frozen=True, slots=True)
class OutgoingPush:
    """A push as a channel gets it, at each attempt."""

    id: str
    """The same at every attempt, so that a provider can detect a repeat."""
    user_id: str = field(repr=False)
    title: str
    body: str
    payload: Mapping[str, str]
    """Data for the app."""
    collapse_key: str
    """A newer push with the same key replaces the older one on the phone."""
    session_id: str | None
    created_at: datetime
    expires_at: datetime | None
    attempt: int
    """From 1."""
    timeout: timedelta
    """How long the channel may take."""
    device: Device | None = None
    """The recipient, on a channel with `to_devices`."""


@dataclass(frozen=True, slots=True)
class ChannelPlugin(Marker):
    """A function marked `@channel`."""

    name: str
    to_devices: bool


@dataclass(frozen=True, slots=True)
class DeviceRegistryPlugin(Marker):
    """A function marked `@devices`."""


def channel(name: str, *, to_devices: bool = False) -> Callable[[Function], Function]:
    """Mark a function `(push: OutgoingPush) -> None`, plain or async, as the channel of this name in PUSH.

    It returns when the provider has accepted the push, or raises `PushFailed`. It is called at least once for a push,
    in several threads concurrently, and never in a transaction; async ones of a process run in one event loop, so that
    a client may be kept in the module. With `to_devices` it is called once for each device of
    the user, which is `push.device`, and may raise `Unregistered`.
    """
    if not NAME.fullmatch(name):
        raise TypeError(f"{name!r} cannot name a channel: use small letters, digits, _ and -, at most 40")

    def mark(function: Function) -> Function:
        check_function(function, "channel", MARK, ("push",))
        setattr(function, MARK, ChannelPlugin(function, name, to_devices))
        return function

    return mark


def devices(function: Function) -> Function:
    """Mark a function `(user_id: str) -> list[Device]` that replaces the table `devices`."""
    check_function(function, "devices", MARK, ("user_id",))
    registry = DeviceRegistryPlugin(function)
    if registry.is_async:
        raise TypeError(f"@devices {function.__name__} must be a plain function; it is called in a thread of its own")
    setattr(function, MARK, registry)
    return function


def channel_plugins_of(module: ModuleType) -> list[ChannelPlugin | DeviceRegistryPlugin]:
    """Return the channels that a module itself defines, then its device registries."""
    return [*markers_in(module, MARK, ChannelPlugin), *markers_in(module, MARK, DeviceRegistryPlugin)]
