"""Push channels: what a channel is, which channels there are, and which of them PUSH opens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

import structlog

from handlers.kit.channel import ChannelPlugin, OutgoingPush
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.push.channel_loop import CHANNEL_LOOP

log = structlog.get_logger()


class Channel(Protocol):
    """One way to a driver's phone."""

    @property
    def to_devices(self) -> bool:
        """Whether it is called once for each device of a user, or once for the user."""

    def send(self, push: OutgoingPush) -> None:
        """Send a push; raise PushFailed if the provider did not accept it.

        Called at least once for each push, by several threads at once: a provider replaces repeats by `collapse_key`.
        """


class LogChannel:
    """The channel `log`: writes a push as one structured line, without its user, for development."""

    to_devices = False

    def send(self, push: OutgoingPush) -> None:
        """Log the push."""
        log.info(
            "push.sent",
            push=push.id,
            channel="log",
            session=push.session_id,
            title=push.title,
            body=push.body,
            expires_at=push.expires_at and push.expires_at.isoformat(),
        )


@dataclass(frozen=True)
class PluginChannel:
    """The channel that a plugin has marked with `@channel`."""

    plugin: ChannelPlugin

    @property
    def to_devices(self) -> bool:
        """Whether the plugin asked for one call a device."""
        return self.plugin.to_devices

    def send(self, push: OutgoingPush) -> None:
        """Call the function; an asynchronous one is cancelled after the timeout, and runs in the loop of all others."""
        if self.plugin.is_async:
            CHANNEL_LOOP.run(partial(self.plugin.function, push), push.timeout)
        else:
            self.plugin.function(push)


def _open_http(settings: Settings) -> Channel:
    # Imported where it is wanted: its HTTP client takes 2 MiB in each process.
    from workers.push.http import HttpChannel  # noqa: PLC0415

    return HttpChannel.of(settings)


def _open_fcm(settings: Settings) -> Channel:
    from workers.push.fcm import FcmChannel  # noqa: PLC0415 - as above

    return FcmChannel.of(settings)


BUILT_IN: Mapping[str, Callable[[Settings], Channel]] = MappingProxyType(
    {"log": lambda _settings: LogChannel(), "http": _open_http, "fcm": _open_fcm}
)
"""What opens each built-in channel, by its name in PUSH."""

Channels = Mapping[str, Channel]


def open_channels(settings: Settings, plugins: Sequence[ChannelPlugin] = ()) -> Channels:
    """Open the channels that PUSH names, built in or of plugins; every push goes to each of them.

    Nothing is connected to before the first push. Raise SettingsError for an unknown channel or a missing setting.
    """
    plugged = {each.name: each for each in plugins}
    taken = sorted(plugged.keys() & BUILT_IN.keys())
    if taken:
        raise SettingsError(f"{plugged[taken[0]].file} offers a channel {taken[0]}, which exists already.")
    known = [*BUILT_IN, *plugged]
    if any(name not in known for name in settings.push):
        raise SettingsError(f"PUSH names a channel that does not exist; there are: {', '.join(known)}.")
    return {
        name: PluginChannel(plugged[name]) if name in plugged else BUILT_IN[name](settings) for name in settings.push
    }
