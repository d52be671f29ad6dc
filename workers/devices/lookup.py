"""The devices of a driver, from a plugin's registry or else from the ledger, and what phones say of themselves."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine

from handlers.kit.channel import Device, DeviceRegistryPlugin
from handlers.kit.localtime import parse_locale, parse_time_zone
from workers.ledger import devices
from workers.ledger.database.engine import read_only

log = structlog.get_logger()

LONGEST_USER = 255
LONGEST_TOKEN = 2000
"""In bytes; a longer one would not fit into the database's index. FCM's have some 160."""


@dataclass(frozen=True)
class Devices:
    """Finds the devices of a user, in the plugins' registry if there is one."""

    engine: Engine
    registry: DeviceRegistryPlugin | None
    limit: int

    def __call__(self, user_id: str) -> list[Device]:
        """List the devices of a user, DEVICES_PER_USER at most. A registry may raise anything; its list is checked."""
        found = self._all(user_id)
        if len(found) > self.limit:
            log.warning("devices.skipped", limit=self.limit, hint="raise DEVICES_PER_USER to reach the others")
        return found[: self.limit]

    def _all(self, user_id: str) -> list[Device]:
        if self.registry is None:
            with read_only(self.engine) as ledger:
                return devices.of_user(ledger, user_id, self.limit + 1)
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


@dataclass(frozen=True, slots=True)
class ParsedDevice:
    """A device, and which of its fields were sent and not understood: without them the defaults count."""

    device: Device
    not_understood: tuple[str, ...]


def parse_device(token: str, document: Mapping[str, object]) -> ParsedDevice:
    """Parse what a phone says of itself, whatever it says: without its token its driver could not be warned.

    Names that are not known are ignored, and so is a field that is null or empty.
    """
    sent = {name: document.get(name) for name in FIELDS}
    understood = {name: parse(sent[name]) for name, parse in FIELDS.items()}
    lost = tuple(name for name in FIELDS if sent[name] not in (None, "") and understood[name] is None)
    return ParsedDevice(Device(token, **understood), lost)


def _platform(text: object) -> str | None:
    name = text.casefold() if isinstance(text, str) else None
    return name if name in PLATFORMS else None


PLATFORMS = ("android", "ios", "web")
FIELDS: Mapping[str, Callable[[object], str | None]] = {
    "platform": _platform,
    "locale": parse_locale,
    "time_zone": parse_time_zone,
}
