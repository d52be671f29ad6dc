"""Endpoints of the simulated Drive API and Roam OCPI, behind authentication and faults."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hmac import compare_digest
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ingest.simulator.drive.state import DriveState
from ingest.simulator.scenarios import format_timestamp
from ingest.wire.timestamps import parse_timestamp

MAX_FLEET_NAME = 100
MAX_SESSIONS = 1000
KEY_PAGE_SIZES = range(10, 501)
FOREVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


class DriveEndpoints:
    """Endpoints of the Drive API, and of the token module of Roam OCPI."""

    def __init__(self, state: DriveState, roam_token: str) -> None:
        self._state = state
        self._roam_token = roam_token.encode()

    async def session(self, request: Request) -> Response:
        """Return one session, finished or not."""
        session = self._state.sessions.get(request.path_params["session_id"])
        if session is None or session.user_id != request.path_params["user_id"]:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such session.")
        return JSONResponse(self._state.document_of(session))

    async def history(self, request: Request) -> Response:
        """Return a page of a user's sessions, by the time of their start."""
        filters = await _body(request)
        statuses = filters.get("sessionStatus") or ["COMPLETE"]
        limit = filters.get("limit", 50)
        if not isinstance(statuses, list) or not isinstance(limit, int) or not 0 < limit <= MAX_SESSIONS:
            raise HTTPException(
                HTTPStatus.BAD_REQUEST, "sessionStatus must be a list, and limit a number from 1 to 1000."
            )
        since, until = (_parse_time(filters.get(name)) for name in ("startTime", "endTime"))
        entries = []
        for session in self._state.sessions.values():
            document = self._state.document_of(session)
            if (
                session.user_id == request.path_params["user_id"]
                and session.status_in_drive in statuses
                and _is_between(session.started_at, since, until)
                and filters.get("chargingKeyId") in {None, document["chargingKeyId"]}
            ):
                start = "" if session.started_at is None else session.started_at.isoformat(timespec="microseconds")
                entries.append((start, session.session_id, document))
        return _page(request, "sessions", entries, limit, filters.get("cursor"))

    async def balance(self, request: Request) -> Response:
        """Return a user's prepaid balance; its path is not documented."""
        amount = self._state.balance(request.path_params["user_id"])
        # Formatted by hand: as a float the number would lose digits.
        return Response(f'{{"balance": {amount}, "currency": "EUR"}}', media_type="application/json")

    async def location(self, request: Request) -> Response:
        """Return a location."""
        location_id = request.path_params["location_id"]
        operator = self._state.locations.get(location_id)
        if operator is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such location.")
        return JSONResponse({"locationId": location_id, "operator_display_name": operator})

    async def charging_keys(self, request: Request) -> Response:
        """Return a page of the keys of a fleet, or of all."""
        fleet_id = request.query_params.get("fleetId")
        if fleet_id is not None and fleet_id not in self._state.fleets:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such fleet.")
        size = request.query_params.get("page_size", "100")
        if not size.isdecimal() or int(size) not in KEY_PAGE_SIZES:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "page_size must be a number from 10 to 500.")
        entries = [("", *each) for each in self._state.keys.items() if fleet_id in {None, each[1].get("fleetId")}]
        return _page(request, "keys", entries, int(size), request.query_params.get("cursor"))

    async def create_fleet(self, request: Request) -> Response:
        """Create a fleet."""
        body = await _body(request)
        fleet_id, name = body.get("fleetId"), body.get("fleetName")
        if not isinstance(fleet_id, str) or not 0 < len(fleet_id) <= MAX_FLEET_NAME:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "fleetId must be a text of up to 100 characters.")
        if fleet_id in self._state.fleets:
            raise HTTPException(HTTPStatus.CONFLICT, "There is such a fleet already.")
        self._state.fleets[fleet_id] = _checked_name(name)
        return JSONResponse({"fleetId": fleet_id, "fleetName": name}, HTTPStatus.CREATED)

    async def rename_fleet(self, request: Request) -> Response:
        """Rename a fleet; the body is not documented."""
        fleet_id = self._fleet(request)
        self._state.fleets[fleet_id] = name = _checked_name((await _body(request)).get("fleetName"))
        return JSONResponse({"fleetId": fleet_id, "fleetName": name})

    async def invitation(self, request: Request) -> Response:
        """Return the active invitation codes of a fleet; their form is not documented."""
        fleet_id = self._fleet(request)
        return JSONResponse({"fleetId": fleet_id, "invitations": [{"code": self._state.invitation(fleet_id)}]})

    async def put_token(self, request: Request) -> Response:
        """Store a token as Roam OCPI does: it forwards NEVER unchanged, and other whitelists as ALLOWED_OFFLINE."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            is_authorized = scheme == "Token" and compare_digest(b64decode(token), self._roam_token)
        except ValueError:
            is_authorized = False
        if not is_authorized:
            return _ocpi(HTTPStatus.UNAUTHORIZED, 2000)
        try:
            document = await _body(request)
        except HTTPException:
            return _ocpi(HTTPStatus.BAD_REQUEST, 2001)
        whitelist = "NEVER" if document.get("whitelist") == "NEVER" else "ALLOWED_OFFLINE"
        name = "/".join(request.path_params[part] for part in ("country", "party", "uid"))
        self._state.tokens[name] = {**document, "whitelist": whitelist}
        return _ocpi(HTTPStatus.OK, 1000)

    def _fleet(self, request: Request) -> str:
        fleet_id: str = request.path_params["fleet_id"]
        if fleet_id not in self._state.fleets:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such fleet.")
        return fleet_id


def _page(
    request: Request, name: str, entries: Sequence[tuple[str, str, Mapping[str, Any]]], size: int, cursor: object
) -> Response:
    """Return the page after the cursor of entries, each a sort key of two parts and a document."""
    after = _parse_cursor(cursor) if cursor else ("", "")
    rest = sorted((entry for entry in entries if entry[:2] > after), key=lambda entry: entry[:2])
    page = rest[:size]
    document: dict[str, Any] = {name: [] if request.state.loses_entries else [entry[2] for entry in page]}
    if name == "sessions":
        document["count"] = len(page)
    if len(rest) > size:
        document["cursor"] = b64encode(json.dumps(page[-1][:2]).encode()).decode()
    return JSONResponse(document)


def _parse_cursor(cursor: object) -> tuple[str, str]:
    try:
        at, name = json.loads(b64decode(str(cursor)))
    except ValueError:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The cursor is invalid.") from None
    return str(at), str(name)


async def _body(request: Request) -> dict[str, Any]:
    """Return the JSON object of the body; an empty body is an empty object."""
    raw = await request.body()
    try:
        document = json.loads(raw) if raw else {}
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The body must be a JSON object.")
    return document


def _parse_time(value: object) -> datetime | None:
    try:
        return None if value is None else parse_timestamp(value)
    except ValueError:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "A time must be in ISO 8601.") from None


def _is_between(at: datetime | None, since: datetime | None, until: datetime | None) -> bool:
    """Return whether a start is within inclusive bounds; without a start, whether there are none."""
    if at is None:
        return since is None and until is None
    return (since or FOREVER[0]) <= at <= (until or FOREVER[1])


def _checked_name(name: object) -> str | None:
    if name is not None and (not isinstance(name, str) or len(name) > MAX_FLEET_NAME):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "fleetName must be a text of up to 100 characters.")
    return name


def _ocpi(status: HTTPStatus, code: int) -> Response:
    return JSONResponse({"status_code": code, "timestamp": format_timestamp(datetime.now(UTC))}, status)
