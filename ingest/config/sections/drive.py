"""Settings of the Drive API, of Roam OCPI, and of the reconciliation of sessions.

The public contract leaves open where a balance and a location are, what renames a fleet, and the fields of a session
other than `sessionStatus` and `balanceStatus`: each is a setting whose default is an assumption.
"""

import json
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from ingest.config.durations import PositiveDuration
from ingest.config.types import HttpUrl, Pointers, PositiveInt, pointer_setting, setting


def _contains_placeholder(placeholder: str) -> AfterValidator:
    def check(path: str) -> str:
        if not path.startswith("/") or placeholder not in path:
            raise ValueError(f"must be a path that begins with / and contains {placeholder}")
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
    """`clock`, `authorize` and `drive`: the Drive API and Roam OCPI."""

    drive_api_url: HttpUrl = setting(
        "https://drive-api-stage.plugsurfing.com/drive", "the Drive API; the default is Plugsurfing's stage"
    )
    drive_api_key: SecretStr | None = setting(None, "key of the Drive API; without it all that needs the API is off")
    drive_timeout: PositiveDuration = setting(timedelta(seconds=10), "how long the Drive API may take to answer")
    drive_patience: PositiveDuration = setting(timedelta(seconds=90), "deadline of one call, all attempts together")
    drive_attempts: PositiveInt = setting(4, "attempts at a call that only reads; others are made once")
    drive_per_minute: Annotated[int, Field(gt=0, lt=3000)] = setting(
        2400, "most calls of it in a minute, by all processes together; Plugsurfing's limit is 3,000"
    )
    drive_per_day: Annotated[int, Field(gt=0, lt=1_000_000)] = setting(
        900_000, "most calls of it in a UTC day; Plugsurfing's limit is 1,000,000"
    )
    drive_session_id: Pointers = pointer_setting("the id of one of its sessions", "/sessionId,/id")
    drive_session_user: Pointers = pointer_setting("the session's user", "/userId,/user/userId,/user/id")
    drive_session_status: Pointers = pointer_setting("its status", "/sessionStatus")
    drive_session_started_at: Pointers = pointer_setting("its start", "/startTime,/startedAt,/start")
    drive_session_ended_at: Pointers = pointer_setting("its end", "/endTime,/stopTime,/endedAt,/stoppedAt,/end")
    drive_session_completed_at: Pointers = pointer_setting(
        "its completion, if it has one", "/completedAt,/completeTime"
    )
    drive_session_location: Pointers = pointer_setting("its location", "/locationId,/location/locationId,/location/id")
    drive_session_key: Pointers = pointer_setting(
        "its charging key", "/chargingKeyId,/keyIdentifier,/chargingKey/id,/chargingKey/keyIdentifier"
    )
    drive_session_operator: Pointers = pointer_setting(
        "the operator's display name, else its name",
        "/operator_display_name,/operatorDisplayName,/location/operator_display_name,/operator/name,/operatorName,/operator",
    )
    drive_balance_path: Annotated[str, _contains_placeholder("{user_id}")] | None = setting(
        None, "path of a user's prepaid balance, with `{user_id}` in it; the contract does not name it"
    )
    drive_balance: Pointers = pointer_setting("the balance in its response", "/balance,/balance/amount,/amount")
    drive_location_path: Annotated[str, _contains_placeholder("{location_id}")] = setting(
        "/v1/locations/{location_id}", "path of a location"
    )
    drive_rename_body: Annotated[str, AfterValidator(_rename_template)] = setting(
        '{"fleetName": "{fleet_name}"}', "body that renames a fleet; `{fleet_id}` may be in it, too"
    )
    roam_ocpi_url: HttpUrl | None = setting(None, "URL of the module `tokens` of Roam OCPI")
    roam_ocpi_token: SecretStr | None = setting(None, "token of Roam OCPI, not encoded")

    @property
    def has_drive(self) -> bool:
        """Return whether there is a key of the Drive API, without which it is never called."""
        return self.drive_api_key is not None and bool(self.drive_api_key.get_secret_value().strip())


class ReconcileSettings(BaseSettings):
    """`clock`: when sessions are read again from the Drive API."""

    reconcile_after: PositiveDuration = setting(
        timedelta(minutes=30), "time without an event after which an incomplete session is read again"
    )
    reconcile_longest: PositiveDuration = setting(
        timedelta(hours=4), "longest wait between two reads; the first doubles"
    )
    reconcile_for: PositiveDuration = setting(timedelta(days=7), "how long one session is read again")
    reconcile_per_minute: PositiveInt = setting(300, "most calls a minute for reconciliation, histories included")
    history_every: PositiveDuration = setting(
        timedelta(hours=12), "how often the histories of known users are searched for unknown sessions"
    )
    history_span: PositiveDuration = setting(timedelta(days=3), "how far back such a search goes")
    known_users_for: PositiveDuration = setting(
        timedelta(days=30), "how long after their last session or device users are searched for"
    )
