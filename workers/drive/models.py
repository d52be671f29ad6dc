"""Typed objects of the Drive API; each keeps the whole response in `document`, with fractions as exact Decimals."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

# Unvalidated: its strings may hold surrogates, which pydantic refuses.
JsonDocument: TypeAlias = Annotated[Mapping[str, Any], SkipValidation]

ALL_STATUSES = ("WAITING_TO_START", "STARTED", "STOP_FAILED", "COMPLETE")
"""The statuses that have been seen. A history request without statuses returns COMPLETE sessions only."""


class _DriveModel(BaseModel):
    # Fields with personal data are left out of `repr`, so that none is logged by accident.
    model_config = ConfigDict(frozen=True)


class DriveSession(_DriveModel):
    """A charging session, finished or not. `status` is an open set; a time that cannot be parsed is None."""

    session_id: str
    user_id: str | None = Field(None, repr=False)
    status: str
    started_at: datetime | None = None
    ended_at: datetime | None = None
    completed_at: datetime | None = None
    location_id: str | None = None
    charging_key_id: str | None = Field(None, repr=False)
    operator_display_name: str | None = None
    is_operator_of_location: bool = False
    """Whether the name was read from its location."""
    balance_status: str | None = None
    document: JsonDocument = Field({}, repr=False)


class ChargingKey(_DriveModel):
    """A charging key, such as an RFID token. `identifier` is hexadecimal and little-endian, as the Drive API has it."""

    identifier: str = Field(repr=False)
    valid_to: datetime | None = None
    """A date without a time means its end, in UTC."""
    contract_id: str | None = Field(None, repr=False)
    visual_number: str | None = Field(None, repr=False)
    fleet_id: str | None = None
    enabled: bool = True
    document: JsonDocument = Field({}, repr=False)


class Location(_DriveModel):
    """A charging location."""

    location_id: str
    operator_display_name: str | None = None
    """More specific than the operator's name: one operator may have several."""
    document: JsonDocument = Field({}, repr=False)


class Fleet(_DriveModel):
    """A fleet as it was created or renamed. `document` is empty if the response was."""

    fleet_id: str
    name: str | None = None
    document: JsonDocument = Field({}, repr=False)


class Invitation(_DriveModel):
    """The active invitation codes of a fleet, unparsed: their form is not documented."""

    fleet_id: str
    document: Any = Field(None, repr=False)


class Whitelist(StrEnum):
    """When a charge point operator may decide about a token without asking; Roam distinguishes these two."""

    NEVER = "NEVER"
    """Real-time authorization of every session."""
    ALLOWED_OFFLINE = "ALLOWED_OFFLINE"
    """It asks, and may start the session without a response."""


class RoamToken(_DriveModel):
    """A token as Roam OCPI takes it (OCPI 2.2.1, 12.3.2); lengths are the standard's."""

    country_code: str = Field(pattern=r"^[A-Za-z]{2}$")
    party_id: str = Field(pattern=r"^[A-Za-z0-9]{3}$")
    uid: str = Field(min_length=1, max_length=36, repr=False)
    type: str = "RFID"
    contract_id: str = Field(min_length=1, max_length=36, repr=False)
    visual_number: str | None = Field(None, max_length=64, repr=False)
    issuer: str = Field(min_length=1, max_length=64)
    valid: bool = True
    whitelist: Whitelist
