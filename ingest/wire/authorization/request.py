"""What is asked at a charger, and what may be answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

MAX_MESSAGE_LENGTH = 512
"""What OCPI lets a driver be told, in characters."""


class Allowed(StrEnum):
    """What a driver may do."""

    ALLOWED = "ALLOWED"
    """Charge."""
    BLOCKED = "BLOCKED"
    """Not charge: the key is blocked."""
    EXPIRED = "EXPIRED"
    """Not charge: the key's time is over."""
    NO_CREDIT = "NO_CREDIT"
    """Not charge: there is not enough credit."""
    NOT_ALLOWED = "NOT_ALLOWED"
    """Not charge here: the key is good, but not at this place."""


class WireFormat(StrEnum):
    """How a question was asked on the wire."""

    PLUGSURFING = "plugsurfing"
    """By Plugsurfing's session pre-authorization."""
    OCPI = "ocpi"
    """By OCPI's real-time authorization of a token."""


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """May this key charge? Everything but the form and the time may be unknown.

    Whoever asks may ask twice, and say more than we know of: all that came is in `document`.
    """

    form: WireFormat
    received_at: datetime
    key: str | None = field(default=None, repr=False)
    """The identifier of the charging key, as it came: `keyIdentifier`, or OCPI's token uid."""
    token_type: str | None = None
    """OCPI's `type` of the token, `RFID` unless it says another."""
    country_code: str | None = None
    reference_id: str | None = None
    location_id: str | None = None
    evse_ids: tuple[str, ...] = ()
    session_id: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The body as it came, decoded; empty if there was none."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy says."""

    allowed: Allowed
    information: str | None = None
    """What the driver may be told beside it."""
    reason: str = ""
    """Why, for the operator. It is kept in the ledger; put no user id in it."""

    def __post_init__(self) -> None:
        """Refuse what could not be answered, where it is made."""
        object.__setattr__(self, "allowed", Allowed(self.allowed))
        if self.information is not None and not isinstance(self.information, str):
            raise TypeError("information= is a text for the driver")
        if not isinstance(self.reason, str):
            raise TypeError("reason= is a text for the operator")
