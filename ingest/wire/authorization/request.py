"""An authorization request, and the decision on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

MAX_MESSAGE_LENGTH = 512
"""The length of a message to a driver in OCPI, in characters."""


class Allowed(StrEnum):
    """OCPI's AllowedType: the answer to an authorization request."""

    ALLOWED = "ALLOWED"
    """The driver may charge."""
    BLOCKED = "BLOCKED"
    """The key is blocked."""
    EXPIRED = "EXPIRED"
    """The key has expired."""
    NO_CREDIT = "NO_CREDIT"
    """There is not enough credit."""
    NOT_ALLOWED = "NOT_ALLOWED"
    """The key is valid, but not at this location."""


class WireFormat(StrEnum):
    """The wire format of an authorization request."""

    PLUGSURFING = "plugsurfing"
    """Plugsurfing's session pre-authorization."""
    OCPI = "ocpi"
    """OCPI's real-time authorization of a token."""


@dataclass(frozen=True)
class AuthorizationRequest:
    """The question whether a key may charge. Everything but the format and the time may be unknown.

    A request may arrive twice, and may have more fields than these: all of it is in `document`.
    """

    form: WireFormat
    received_at: datetime
    key: str | None = field(default=None, repr=False)
    """The identifier of the charging key as received: `keyIdentifier`, or OCPI's token uid."""
    token_type: str | None = None
    """OCPI's `type` of the token, `RFID` by default."""
    country_code: str | None = None
    reference_id: str | None = None
    location_id: str | None = None
    evse_ids: tuple[str, ...] = ()
    session_id: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The decoded body; empty if there was none."""


@dataclass(frozen=True)
class Decision:
    """The decision of a policy. Raises ValueError or TypeError for one that cannot be sent."""

    allowed: Allowed
    information: str | None = None
    """The message to the driver."""
    reason: str = ""
    """The reason, for the operator. It is stored in the ledger; do not put user ids in it."""

    def __post_init__(self) -> None:
        """Check the types where the decision is made, and not where it is sent."""
        object.__setattr__(self, "allowed", Allowed(self.allowed))
        if self.information is not None and not isinstance(self.information, str):
            raise TypeError("information= must be a text for the driver")
        if not isinstance(self.reason, str):
            raise TypeError("reason= must be a text for the operator")
