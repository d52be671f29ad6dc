"""What the Drive API tells, typed; each model keeps in `document` all that came, the unknown too.

Numbers with a fraction are exact in a document: `Decimal`, never `float`.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

# As it came: its texts may hold what pydantic takes for no text.
JsonDocument: TypeAlias = Annotated[Mapping[str, Any], SkipValidation]

ALL_STATUSES = ("WAITING_TO_START", "STARTED", "STOP_FAILED", "COMPLETE")
"""The statuses that have been seen. A history that names none has COMPLETE sessions only."""


class _DriveModel(BaseModel):
    # What came holds user ids, so it is never a part of what is printed by accident.
    model_config = ConfigDict(frozen=True)


class DriveSession(_DriveModel):
    """A charging session, finished or not. `status` is an open set; a time that cannot be read is None."""

    session_id: str
    user_id: str | None = Field(None, repr=False)
    status: str
    started_at: datetime | None = None
    ended_at: datetime | None = None
    completed_at: datetime | None = None
    location_id: str | None = None
    charging_key_id: str | None = Field(None, repr=False)
    operator_display_name: str | None = None
    balance_status: str | None = None
    document: JsonDocument = Field({}, repr=False)


class ChargingKey(_DriveModel):
    """A charging key: an RFID token, for instance. `identifier` is hexadecimal, little-endian, as Drive writes it."""

    identifier: str = Field(repr=False)
    valid_to: datetime | None = None
    """Until then; a date alone counts to its end, in UTC."""
    contract_id: str | None = Field(None, repr=False)
    visual_number: str | None = Field(None, repr=False)
    fleet_id: str | None = None
    enabled: bool = True
    document: JsonDocument = Field({}, repr=False)


class Location(_DriveModel):
    """A charging location."""

    location_id: str
    operator_display_name: str | None = None
    """More exact than the operator's name: one operator may have several."""
    document: JsonDocument = Field({}, repr=False)


class Fleet(_DriveModel):
    """A fleet as it was created or renamed. `document` is empty if the answer was."""

    fleet_id: str
    name: str | None = None
    document: JsonDocument = Field({}, repr=False)


class Invitation(_DriveModel):
    """The active invitation codes of a fleet. Their form is not documented: they are handed on as they came."""

    fleet_id: str
    document: Any = Field(None, repr=False)


class Whitelist(StrEnum):
    """When a charge point operator may decide by itself about a token, as far as Roam tells the two apart."""

    NEVER = "NEVER"
    """It must ask each time: real-time authorization."""
    ALLOWED_OFFLINE = "ALLOWED_OFFLINE"
    """It asks, and may start the session when nobody answers."""


class RoamToken(_DriveModel):
    """A token as Roam OCPI is told of it (OCPI 2.2.1, 12.3.2); lengths are those of the standard."""

    country_code: str = Field(pattern=r"^[A-Za-z]{2}$")
    party_id: str = Field(pattern=r"^[A-Za-z0-9]{3}$")
    uid: str = Field(min_length=1, max_length=36, repr=False)
    type: str = "RFID"
    contract_id: str = Field(min_length=1, max_length=36, repr=False)
    visual_number: str | None = Field(None, max_length=64, repr=False)
    issuer: str = Field(min_length=1, max_length=64)
    valid: bool = True
    whitelist: Whitelist
