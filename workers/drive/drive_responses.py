"""Parse responses: status and bytes into decoded JSON or an error, JSON into models, as the settings say; pure."""

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any

from handlers.kit.field_extraction import parse_decimal
from ingest.config.settings import Settings
from ingest.errors import Unreadable
from ingest.wire.field_paths import Pointer, pointers
from ingest.wire.json_documents import parse_json
from ingest.wire.timestamps import parse_timestamp
from workers.drive.drive_errors import (
    BadRequest,
    DriveConflict,
    DriveError,
    DriveUnavailable,
    InvalidResponse,
    NotFound,
    Throttled,
    TruncatedResponse,
    Unauthorized,
)
from workers.drive.drive_requests import Request, Service
from workers.drive.models import ChargingKey, DriveSession, Location

KEY_SETTINGS = {Service.DRIVE: "DRIVE_API_KEY", Service.ROAM: "ROAM_OCPI_TOKEN"}
URL_SETTINGS = {Service.DRIVE: "DRIVE_API_URL", Service.ROAM: "ROAM_OCPI_URL"}
RETRYABLE = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})
OCPI_SUCCESS = range(1000, 2000)
"""Status codes of success in the envelope of a response (OCPI 2.2.1, 5)."""

DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

KEY_ID, VALID_TO, CONTRACT, FLEET, BALANCE_STATUS = (
    pointers(f"/{name}") for name in ("keyIdentifier", "validTo", "contractId", "fleetId", "balanceStatus")
)
VISUAL_NUMBER = pointers("/visualNumber", "/referenceId")
OPERATOR = pointers("/operator_display_name", "/operatorDisplayName")


def parse_response(request: Request, status: int, body: bytes) -> Any:
    """Return the decoded JSON, fractions as exact Decimals; None for a write's empty body. Raise DriveError."""
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise error_for_status(request, status)
    if not body.strip() and not request.is_read:
        return None
    try:
        document = parse_json(body, exact=True)
    except Unreadable:
        raise TruncatedResponse(
            f"{request.service.value} did not respond with JSON to the request to {request.description}."
        ) from None
    if request.service is Service.ROAM:
        _check_ocpi_status(document)
    return document


def error_for_status(request: Request, status: int) -> DriveError:
    """Return the error for a status; its message names the setting to check."""
    who, key, url = request.service.value, KEY_SETTINGS[request.service], URL_SETTINGS[request.service]
    error: DriveError
    match status:
        case HTTPStatus.UNAUTHORIZED:
            error = Unauthorized(f"{who} does not accept the key in {key} (401); does it belong to {url}?")
        case HTTPStatus.FORBIDDEN:
            error = Unauthorized(f"The key in {key} lacks the permission to {request.description} (403).")
        case HTTPStatus.NOT_FOUND:
            error = NotFound(f"{who} knows no such {request.thing} (404); if it exists, check {request.setting}.")
        case HTTPStatus.CONFLICT:
            error = DriveConflict(f"{who} has such a {request.thing} already (409).")
        case HTTPStatus.TOO_MANY_REQUESTS:
            error = Throttled(f"{who} received too many requests (429): no more before the next minute, in UTC.")
        case _ if status in RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            note = maybe_applied_note(request)
            error = DriveUnavailable(f"{who} failed to {request.description} ({status}).{note}")
        case _ if status >= HTTPStatus.BAD_REQUEST:
            error = BadRequest(f"{who} did not accept the request to {request.description} ({status}).")
        case _:
            error = InvalidResponse(
                f"{who} responded {status} to the request to {request.description}: check {request.setting}."
            )
    return error


def maybe_applied_note(request: Request) -> str:
    """Return a sentence for writes: the failed request may have been applied."""
    return "" if request.is_read else " It may have been applied."


class ResponseParser:
    """Parses documents into models, at the places that settings name. Raises InvalidResponse."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def session(self, document: Any, *, user_id: str, session_id: str | None = None) -> DriveSession:
        """Return a session of a user: the one with `session_id` if it is given, and then its id may be missing."""
        settings, document = self._settings, _object(document, "session")
        found = first_text(document, settings.drive_session_id) or session_id
        if found is None:
            raise InvalidResponse("The Drive API returned a session without an id: check DRIVE_SESSION_ID.")
        if session_id not in {None, found}:
            raise InvalidResponse("The Drive API returned another session: check DRIVE_SESSION_ID.")
        status = first_text(document, settings.drive_session_status)
        if status is None:
            raise InvalidResponse("The Drive API returned a session without a status: check DRIVE_SESSION_STATUS.")
        return DriveSession(
            session_id=found,
            user_id=first_text(document, settings.drive_session_user) or user_id,
            status=status,
            started_at=first_timestamp(document, settings.drive_session_started_at),
            ended_at=first_timestamp(document, settings.drive_session_ended_at),
            completed_at=first_timestamp(document, settings.drive_session_completed_at),
            location_id=first_text(document, settings.drive_session_location),
            charging_key_id=first_text(document, settings.drive_session_key),
            operator_display_name=first_text(document, settings.drive_session_operator),
            balance_status=first_text(document, BALANCE_STATUS),
            document=document,
        )

    def charging_key(self, document: Any, *, fleet_id: str | None) -> ChargingKey:
        """Return a charging key of the given fleet; it is enabled unless it says otherwise."""
        document = _object(document, "charging key")
        identifier = first_text(document, KEY_ID)
        if identifier is None:
            raise InvalidResponse("The Drive API returned a charging key without an identifier.")
        return ChargingKey(
            identifier=identifier,
            valid_to=first_timestamp(document, VALID_TO, date_means_its_end=True),
            contract_id=first_text(document, CONTRACT),
            visual_number=first_text(document, VISUAL_NUMBER),
            fleet_id=first_text(document, FLEET) or fleet_id,
            enabled=document.get("enabled") is not False,
            document=document,
        )

    def location(self, document: Any, *, location_id: str) -> Location:
        """Return a location."""
        document = _object(document, "location")
        name = first_text(document, OPERATOR)
        return Location(location_id=location_id, operator_display_name=name, document=document)

    def balance(self, document: Any) -> Decimal:
        """Return a balance, from a number or a string."""
        for pointer in self._settings.drive_balance:
            try:
                return parse_decimal(pointer.find(document))
            except ValueError:
                continue
        raise InvalidResponse("The Drive API returned no balance: check DRIVE_BALANCE.")


def first_text(document: Any, places: tuple[Pointer, ...]) -> str | None:
    """Return the first string, or integer as a string, that one of the pointers finds and databases can store."""
    for pointer in places:
        found = pointer.find(document)
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate
            if isinstance(found, str | int) and not isinstance(found, bool) and str(found).encode():
                return str(found)
    return None


def first_timestamp(document: Any, places: tuple[Pointer, ...], *, date_means_its_end: bool = False) -> datetime | None:
    """Return the first valid time that one of the pointers finds."""
    for pointer in places:
        found = pointer.find(document)
        try:
            if date_means_its_end and isinstance(found, str) and DATE.fullmatch(found):
                return datetime.fromisoformat(found).replace(tzinfo=UTC) + timedelta(days=1)
            if found is not None:
                return parse_timestamp(float(found) if isinstance(found, Decimal) else found)
        except (ValueError, OverflowError):
            continue
    return None


def _check_ocpi_status(document: Any) -> None:
    code = document.get("status_code") if isinstance(document, dict) else None
    if not isinstance(code, int):
        raise InvalidResponse("Roam OCPI did not respond with an OCPI status code: check ROAM_OCPI_URL.")
    if code not in OCPI_SUCCESS:
        raise BadRequest(f"Roam OCPI did not accept the token (OCPI status {code}).")


def _object(document: Any, thing: str) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise InvalidResponse(f"The Drive API did not respond with a {thing}.")
    return document
