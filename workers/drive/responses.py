"""Reads what a service answered: status and bytes become decoded JSON, or an error that repeats nothing of them."""

from http import HTTPStatus
from typing import Any

from ingest.errors import Unreadable
from ingest.wire.json_documents import read_json
from workers.drive.errors import (
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
from workers.drive.requests import Request, Service

KEY_SETTINGS = {Service.DRIVE: "DRIVE_API_KEY", Service.ROAM: "ROAM_OCPI_TOKEN"}
URL_SETTINGS = {Service.DRIVE: "DRIVE_API_URL", Service.ROAM: "ROAM_OCPI_URL"}
RETRYABLE = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})
OCPI_SUCCESS = range(1000, 2000)
"""Status codes of OCPI that mean success, in the envelope of an answer (OCPI 2.2.1, 5)."""


def parse_response(request: Request, status: int, body: bytes) -> Any:
    """Decode the JSON of a good answer, fractions as exact decimals; an empty one is None. Raise DriveError."""
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise error_for_status(request, status)
    if not body.strip() and not request.is_read:
        return None
    try:
        document = read_json(body, exact=True)
    except Unreadable:
        raise TruncatedResponse(
            f"{request.service.value} did not answer with JSON when asked to {request.description}."
        ) from None
    if request.service is Service.ROAM:
        _check_envelope(document)
    return document


def error_for_status(request: Request, status: int) -> DriveError:
    """Put a status into words that name the setting to look at."""
    who, key, url = request.service.value, KEY_SETTINGS[request.service], URL_SETTINGS[request.service]
    failure: DriveError
    match status:
        case HTTPStatus.UNAUTHORIZED:
            failure = Unauthorized(f"{who} does not accept the key in {key} (401); does it belong to {url}?")
        case HTTPStatus.FORBIDDEN:
            failure = Unauthorized(f"The key in {key} lacks the permission to {request.description} (403).")
        case HTTPStatus.NOT_FOUND:
            failure = NotFound(
                f"{who} knows no such {request.thing} (404); if there is one, look at {request.setting}."
            )
        case HTTPStatus.CONFLICT:
            failure = DriveConflict(f"{who} has such a {request.thing} already (409).")
        case HTTPStatus.TOO_MANY_REQUESTS:
            failure = Throttled(f"{who} is asked too often (429): no more before the next minute, in UTC.")
        case _ if status in RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            failure = DriveUnavailable(
                f"{who} failed when asked to {request.description} ({status}).{maybe_applied_note(request)}"
            )
        case _ if status >= HTTPStatus.BAD_REQUEST:
            failure = BadRequest(f"{who} did not accept the request to {request.description} ({status}).")
        case _:
            failure = InvalidResponse(
                f"{who} answered {status} when asked to {request.description}: look at {request.setting}."
            )
    return failure


def maybe_applied_note(request: Request) -> str:
    """Say, for what changes something, that it may have been done all the same."""
    return "" if request.is_read else " It may have been done all the same."


def _check_envelope(document: Any) -> None:
    code = document.get("status_code") if isinstance(document, dict) else None
    if not isinstance(code, int):
        raise InvalidResponse("Roam OCPI did not answer with a status code of OCPI: look at ROAM_OCPI_URL.")
    if code not in OCPI_SUCCESS:
        raise BadRequest(f"Roam OCPI did not accept the token (OCPI status {code}).")
