"""How the Drive API is called, where in its answers we look for what, and how Roam OCPI is told of tokens.

What the public contract does not say is a setting, and its default an assumption: the paths of a balance and of a
location, the body that renames a fleet, and where a session has what, but for `sessionStatus` and `balanceStatus`.
"""

import json
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from ingest.config.durations import PositiveDuration
from ingest.config.types import HttpUrl, Pointers, PositiveInt
from ingest.wire.json_pointers import pointers


def _contains_placeholder(placeholder: str) -> AfterValidator:
    def check(path: str) -> str:
        if not path.startswith("/") or placeholder not in path:
            raise ValueError(f"must be a path that begins with / and has {placeholder} in it")
        return path

    return AfterValidator(check)


def _rename_template(text: str) -> str:
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict) or "{fleet_name}" not in text:
        raise ValueError("must be a JSON object with {fleet_name} in one of its texts")
    return text


class DriveSettings(BaseSettings):
    """How the Drive API is called, and read."""

    drive_api_url: HttpUrl = Field(
        "https://drive-api-stage.plugsurfing.com/drive", description="the Drive API; the default is Plugsurfing's stage"
    )
    drive_api_key: SecretStr | None = Field(
        None, description="key of the Drive API; without it everything that needs the API is off"
    )
    drive_timeout: PositiveDuration = Field(
        timedelta(seconds=10), description="how long the Drive API may take to answer"
    )
    drive_patience: PositiveDuration = Field(
        timedelta(seconds=90), description="how long an answer of it is worth waiting for, all attempts together"
    )
    drive_attempts: PositiveInt = Field(
        4, description="attempts at reading from it; what changes something is tried once"
    )
    drive_per_minute: Annotated[int, Field(gt=0, lt=3000)] = Field(
        2400, description="most calls of it in a minute, by all processes together; Plugsurfing's limit is 3,000"
    )
    drive_per_day: Annotated[int, Field(gt=0, lt=1_000_000)] = Field(
        900_000, description="most calls of it in a UTC day; Plugsurfing's limit is 1,000,000"
    )
    drive_session_id: Pointers = Field(
        pointers("/sessionId", "/id"), description="where in a session of it the id is: JSON pointers by comma"
    )
    drive_session_user: Pointers = Field(
        pointers("/userId", "/user/userId", "/user/id"), description="where the user's id is"
    )
    drive_session_status: Pointers = Field(pointers("/sessionStatus"), description="where the status is")
    drive_session_started_at: Pointers = Field(
        pointers("/startTime", "/startedAt", "/start"), description="where the time of its start is"
    )
    drive_session_ended_at: Pointers = Field(
        pointers("/endTime", "/stopTime", "/endedAt", "/stoppedAt", "/end"), description="where the time of its end is"
    )
    drive_session_completed_at: Pointers = Field(
        pointers("/completedAt", "/completeTime"), description="where the time of its completion is, if it is told"
    )
    drive_session_location: Pointers = Field(
        pointers("/locationId", "/location/locationId", "/location/id"), description="where the location's id is"
    )
    drive_session_key: Pointers = Field(
        pointers("/chargingKeyId", "/keyIdentifier", "/chargingKey/id", "/chargingKey/keyIdentifier"),
        description="where the charging key is",
    )
    drive_session_operator: Pointers = Field(
        pointers("/operator_display_name", "/operatorDisplayName", "/location/operator_display_name"),
        description="where the operator's display name is",
    )
    drive_balance_path: Annotated[str, _contains_placeholder("{user_id}")] | None = Field(
        None, description="path of a user's prepaid balance, with `{user_id}` in it; it is not public"
    )
    drive_balance: Pointers = Field(
        pointers("/balance", "/balance/amount", "/amount"), description="where in that answer the balance is"
    )
    drive_location_path: Annotated[str, _contains_placeholder("{location_id}")] = Field(
        "/v1/locations/{location_id}", description="path of a location"
    )
    drive_rename_body: Annotated[str, AfterValidator(_rename_template)] = Field(
        '{"fleetName": "{fleet_name}"}', description="what renames a fleet; `{fleet_id}` is known, too"
    )
    roam_ocpi_url: HttpUrl | None = Field(
        None, description="where Roam OCPI takes tokens: the URL of its module `tokens`"
    )
    roam_ocpi_token: SecretStr | None = Field(None, description="token of Roam OCPI, before it is written in base64")

    @property
    def has_drive(self) -> bool:
        """Say whether there is a key of the Drive API; without one nobody asks it."""
        return self.drive_api_key is not None and bool(self.drive_api_key.get_secret_value().strip())
