"""Makes models of decoded answers, each fact from where the settings say it is."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from handlers.kit.decimals import read_decimal
from ingest.config.settings import Settings
from ingest.wire.json_pointers import Pointer, pointers
from ingest.wire.timestamps import read_timestamp
from workers.drive.errors import InvalidResponse
from workers.drive.models import ChargingKey, DriveSession, Location

DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

KEY_ID, VALID_TO, CONTRACT, VISUAL_NUMBER, FLEET, BALANCE_STATUS, OPERATOR = (
    pointers(*where)
    for where in (
        ("/keyIdentifier",),
        ("/validTo",),
        ("/contractId",),
        ("/visualNumber",),
        ("/fleetId",),
        ("/balanceStatus",),
        ("/operator_display_name", "/operatorDisplayName"),
    )
)


class ResponseParser:
    """Reads answers as the settings say. Raises DriveNonsense."""

    def __init__(self, settings: Settings) -> None:
        self._where = settings

    def session(self, document: Any, *, user_id: str, session_id: str | None = None) -> DriveSession:
        """Read a session of a user. It must be the one that was asked for, if one was; an id may be missing then."""
        where, document = self._where, _object(document, "session")
        found = text(document, where.drive_session_id) or session_id
        if found is None:
            raise InvalidResponse("The Drive API answered with a session without an id: look at DRIVE_SESSION_ID.")
        if session_id not in {None, found}:
            raise InvalidResponse("The Drive API answered with another session: look at DRIVE_SESSION_ID.")
        status = text(document, where.drive_session_status)
        if status is None:
            raise InvalidResponse("The Drive API answered with a session without status: look at DRIVE_SESSION_STATUS.")
        return DriveSession(
            session_id=found,
            user_id=text(document, where.drive_session_user) or user_id,
            status=status,
            started_at=first_timestamp(document, where.drive_session_started_at),
            ended_at=first_timestamp(document, where.drive_session_ended_at),
            completed_at=first_timestamp(document, where.drive_session_completed_at),
            location_id=text(document, where.drive_session_location),
            charging_key_id=text(document, where.drive_session_key),
            operator_display_name=text(document, where.drive_session_operator),
            balance_status=text(document, BALANCE_STATUS),
            document=document,
        )

    def charging_key(self, document: Any, *, fleet_id: str | None) -> ChargingKey:
        """Read a charging key, of the fleet that was asked for. One that does not say so is enabled."""
        document = _object(document, "charging key")
        identifier = text(document, KEY_ID)
        if identifier is None:
            raise InvalidResponse("The Drive API answered with a charging key without an identifier.")
        return ChargingKey(
            identifier=identifier,
            valid_to=first_timestamp(document, VALID_TO, through_the_day=True),
            contract_id=text(document, CONTRACT),
            visual_number=text(document, VISUAL_NUMBER),
            fleet_id=text(document, FLEET) or fleet_id,
            enabled=document.get("enabled") is not False,
            document=document,
        )

    def location(self, document: Any, *, location_id: str) -> Location:
        """Read a location."""
        document = _object(document, "location")
        return Location(location_id=location_id, operator_display_name=text(document, OPERATOR), document=document)

    def balance(self, document: Any) -> Decimal:
        """Read a balance: a number, or a text with one."""
        for pointer in self._where.drive_balance:
            try:
                return read_decimal(pointer.find(document))
            except ValueError:
                continue
        raise InvalidResponse("The Drive API answered without a balance: look at DRIVE_BALANCE.")


def text(document: Any, where: tuple[Pointer, ...]) -> str | None:
    """Return the first text, or whole number as a text, that one of the pointers finds."""
    for pointer in where:
        found = pointer.find(document)
        if isinstance(found, str | int) and not isinstance(found, bool) and is_storable_text(str(found)):
            return str(found)
    return None


def is_storable_text(found: str) -> bool:
    """Say whether it is something that databases and models can hold: not empty, and no half of a sign."""
    try:
        return bool(found.encode())
    except UnicodeEncodeError:
        return False


def first_timestamp(document: Any, where: tuple[Pointer, ...], *, through_the_day: bool = False) -> datetime | None:
    """Return the first time that one of the pointers finds and that can be read; a date alone may stand for its end."""
    for pointer in where:
        found = pointer.find(document)
        try:
            if through_the_day and isinstance(found, str) and DATE.fullmatch(found):
                return datetime.fromisoformat(found).replace(tzinfo=UTC) + timedelta(days=1)
            if found is not None:
                return read_timestamp(float(found) if isinstance(found, Decimal) else found)
        except (ValueError, OverflowError):
            continue
    return None


def _object(document: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise InvalidResponse(f"The Drive API did not answer with a {what}.")
    return document
