"""Which channels there are, and which of them PUSH opens."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ingest.errors import SettingsError
from ingest.settings import Settings
from workers.push.channel import Channel
from workers.push.log import LogChannel

CHANNELS: Mapping[str, Callable[[Settings], Channel]] = MappingProxyType({"log": lambda _settings: LogChannel()})
"""Each channel by its name in PUSH, with what opens it."""

Channels = Mapping[str, Channel]


def open_channels(settings: Settings) -> Channels:
    """Open the channels that PUSH names; every push goes to each of them. Raise SettingsError for an unknown one."""
    unknown = [name for name in settings.push if name not in CHANNELS]
    if unknown:
        raise SettingsError(f"PUSH names a channel that does not exist; there are: {', '.join(CHANNELS)}")
    return {name: CHANNELS[name](settings) for name in settings.push}
