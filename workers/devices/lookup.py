"""The devices of a driver, from a plugin's registry or else from the ledger, and the validation of new ones."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Engine

from handlers.kit.channel import Device, DeviceRegistryPlugin
from ingest.config.types import Locale, TimeZone
from workers.ledger import devices
from workers.ledger.database.engine import read_only

LONGEST_USER = 255
LONGEST_TOKEN = 2000
"""In bytes; a longer one would not fit into the database's index. FCM's have some 160."""


@dataclass(frozen=True)
class Devices:
    """Finds the devices of a user, in the plugins' registry if there is one."""

    engine: Engine
    registry: DeviceRegistryPlugin | None

    def __call__(self, user_id: str) -> list[Device]:
        """List the devices of a user. A registry may raise anything; what it returns is checked."""
        if self.registry is None:
            with read_only(self.engine) as ledger:
                return devices.of_user(ledger, user_id)
        found = self.registry.function(user_id)
        if not isinstance(found, Iterable):
            raise TypeError("@devices must return a list of Device")
        listed = list(found)
        if not all(isinstance(each, Device) for each in listed):
            raise TypeError("@devices must return a list of Device")
        return listed


class InvalidDevice(ValueError):
    """Raised when a device cannot be registered; the sentence quotes no input."""


def check_names(user_id: str, token: str) -> None:
    """Raise InvalidDevice unless both can be stored as a user's id and a token."""
    for name, text, longest in (("user id", user_id, LONGEST_USER), ("token", token, LONGEST_TOKEN)):
        if not text.strip() or not text.isprintable():
            raise InvalidDevice(f"The {name} is empty, or has invisible characters.")
        if len(text.encode()) > longest:
            raise InvalidDevice(f"The {name} is longer than {longest} bytes.")


def parse_device(token: str, document: object) -> Device:
    """Parse the JSON of a device. Raise InvalidDevice with a sentence about the first wrong field."""
    try:
        update = DeviceUpdate.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        part = first["loc"][0] if first["loc"] else "the document"
        problem = first["msg"].removeprefix("Value error, ")
    else:
        return Device(token, update.platform, update.locale, update.time_zone)
    raise InvalidDevice(f"{part}: {problem}.")


class DeviceUpdate(BaseModel):
    """The JSON of a device; each field is optional."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    platform: Literal["android", "ios", "web"] | None = None
    locale: Locale | None = None
    time_zone: TimeZone | None = None
