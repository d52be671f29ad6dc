"""What a push channel is, and how a plugin's function becomes one."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from handlers.kit.channel import ChannelPlugin, OutgoingPush


class Channel(Protocol):
    """One way to a driver's phone."""

    @property
    def to_devices(self) -> bool:
        """Whether it is called once for each device of a user, or once for the user."""

    def send(self, push: OutgoingPush) -> None:
        """Hand a push to whoever shows it; raise PushFailed if that was not taken.

        Called at least once for each push, by several threads at once: a provider folds repeats by `collapse_key`.
        """


@dataclass(frozen=True)
class PluginChannel:
    """The channel that a plugin has marked with `@channel`."""

    offered: ChannelPlugin

    @property
    def to_devices(self) -> bool:
        """Say what the mark says."""
        return self.offered.to_devices

    def send(self, push: OutgoingPush) -> None:
        """Call the function; an asynchronous one is cancelled when its time is over."""
        if self.offered.is_async:
            asyncio.run(self._send(push))
        else:
            self.offered.function(push)

    async def _send(self, push: OutgoingPush) -> None:
        async with asyncio.timeout(push.timeout.total_seconds()):
            called = self.offered.function(push)
            if isinstance(called, Awaitable):
                await called
