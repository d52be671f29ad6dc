"""Which channels there are, and which of them PUSH opens."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from handlers.kit.channel import ChannelPlugin
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.push.channel import Channel, PluginChannel
from workers.push.fcm import FcmChannel
from workers.push.http import HttpChannel
from workers.push.log import LogChannel

BUILT_IN: Mapping[str, Callable[[Settings], Channel]] = MappingProxyType(
    {"log": lambda _settings: LogChannel(), "http": HttpChannel.of, "fcm": FcmChannel.of}
)
"""Each channel of the house by its name in PUSH, with what opens it."""

Channels = Mapping[str, Channel]


def open_channels(settings: Settings, offered: Sequence[ChannelPlugin] = ()) -> Channels:
    """Open the channels that PUSH names, ours and those of plugins; every push goes to each of them.

    Nothing is connected to before the first push. Raise SettingsError for an unknown channel, or one that misses a
    setting.
    """
    plugged = {each.name: each for each in offered}
    taken = sorted(plugged.keys() & BUILT_IN.keys())
    if taken:
        raise SettingsError(f"{plugged[taken[0]].file} offers a channel {taken[0]}, which exists already.")
    there = [*BUILT_IN, *plugged]
    if any(name not in there for name in settings.push):
        raise SettingsError(f"PUSH names a channel that does not exist; there are: {', '.join(there)}.")
    return {
        name: PluginChannel(plugged[name]) if name in plugged else BUILT_IN[name](settings) for name in settings.push
    }
