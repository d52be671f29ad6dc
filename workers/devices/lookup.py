"""The devices of a driver: from the plugin that knows them, or else from the ledger; and what a device must be like."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Engine

from handlers.kit.channel import Device, DeviceRegistryPlugin
from ingest.config.types import Locale, TimeZone
from workers.ledger import devices
from workers.ledger.database.engine import read_only
from workers.plugins import Plugins

LONGEST_USER = 255
LONGEST_TOKEN = 2000
"""In bytes; a longer one would not fit the index of the database. Those of FCM have some 160."""


@dataclass(frozen=True)
class Devices:
    """Finds the devices of a user."""

    engine: Engine
    offered: DeviceRegistryPlugin | None

    @classmethod
    def of(cls, plugins: Plugins, engine: Engine) -> "Devices":
        """Take the plugin's registry if there is one."""
        return cls(engine, plugins.devices)

    def __call__(self, user_id: str) -> list[Device]:
        """List the devices of a user. A plugin may raise anything; what it returns is checked."""
        if self.offered is None:
            with read_only(self.engine) as ledger:
                return devices.of_user(ledger, user_id)
        found = self.offered.function(user_id)
        if not isinstance(found, Iterable):
            raise TypeError("@devices must return a list of Device")
        listed = list(found)
        if not all(isinstance(each, Device) for each in listed):
            raise TypeError("@devices must return a list of Device")
        return listed


class InvalidDevice(ValueError):
    """Raised when what is to be registered cannot be a device; the sentence says what is wrong and quotes nothing."""


def check_names(user_id: str, token: str) -> None:
    """Raise NoDevice unless both can be a user's id and a token."""
    for name, text, longest in (("user id", user_id, LONGEST_USER), ("token", token, LONGEST_TOKEN)):
        if not text.strip() or not text.isprintable():
            raise InvalidDevice(f"The {name} is empty, or has characters that nobody can see.")
        if len(text.encode()) > longest:
            raise InvalidDevice(f"The {name} is longer than {longest} bytes.")


def parse_device(token: str, said: object) -> Device:
    """Make a device of what was said about it. Raise NoDevice, one sentence, if a part of it makes no sense."""
    try:
        about = DeviceUpdate.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        part = first["loc"][0] if first["loc"] else "what is said"
        problem = first["msg"].removeprefix("Value error, ")
    else:
        return Device(token, about.platform, about.locale, about.time_zone)
    raise InvalidDevice(f"{part}: {problem}.")


class DeviceUpdate(BaseModel):
    """What may be said about a device."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    platform: Literal["android", "ios", "web"] | None = None
    locale: Locale | None = None
    time_zone: TimeZone | None = None
