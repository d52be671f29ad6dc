"""What the simulated Drive API and Roam OCPI answer, once a request was let in."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hmac import compare_digest
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ingest.simulator.drive.state import DriveState, Key
from ingest.simulator.scenarios import format_timestamp
from ingest.wire.timestamps import read_timestamp

LONGEST_FLEET = 100
MOST_SESSIONS = 1000
KEYS_A_PAGE = range(10, 501)
FOREVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


class HttpError(Exception):
    """Raised to end a request with a status."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class DriveEndpoints:
    """The answers of the Drive API on a world."""

    def __init__(self, world: DriveState) -> None:
        self._world = world

    async def session(self, request: Request) -> Response:
        """Give one session, finished or not."""
        truth = self._world.sessions.get(request.path_params["session_id"])
        if truth is None or truth.user_id != request.path_params["user_id"]:
            raise HttpError(HTTPStatus.NOT_FOUND, "There is no such session.")
        return JSONResponse(self._world.document_of(truth))

    async def history(self, request: Request) -> Response:
        """Give a page of a user's sessions, by the time of their start."""
        asked = await _body(request)
        statuses = asked.get("sessionStatus") or ["COMPLETE"]
        limit = asked.get("limit", 50)
        if not isinstance(statuses, list) or not isinstance(limit, int) or not 0 < limit <= MOST_SESSIONS:
            raise HttpError(HTTPStatus.BAD_REQUEST, "sessionStatus must be a list, and limit a number from 1 to 1000.")
        since, until = (_time(asked.get(name)) for name in ("startTime", "endTime"))
        fitting = [
            truth
            for truth in self._world.sessions.values()
            if truth.user_id == request.path_params["user_id"]
            and truth.status_in_drive in statuses
            and _is_between(truth.started_at, since, until)
        ]
        found = [(_sortable(truth.started_at), truth.session_id, self._world.document_of(truth)) for truth in fitting]
        found = [each for each in found if asked.get("chargingKeyId") in {None, each[2]["chargingKeyId"]}]
        return _page(request, "sessions", found, limit, asked.get("cursor"))

    async def balance(self, request: Request) -> Response:
        """Give a user's prepaid balance; its path is not documented."""
        amount = self._world.balance(request.path_params["user_id"])
        # By hand: the number must not become a binary fraction on the way.
        return Response(f'{{"balance": {amount}, "currency": "EUR"}}', media_type="application/json")

    async def location(self, request: Request) -> Response:
        """Give a location."""
        place = self._world.places.get(request.path_params["location_id"])
        if place is None:
            raise HttpError(HTTPStatus.NOT_FOUND, "There is no such location.")
        return JSONResponse({"locationId": place.location_id, "operator_display_name": place.operator})

    async def charging_keys(self, request: Request) -> Response:
        """Give a page of the keys of a fleet, or of all."""
        fleet_id = request.query_params.get("fleetId")
        if fleet_id is not None and fleet_id not in self._world.fleets:
            raise HttpError(HTTPStatus.NOT_FOUND, "There is no such fleet.")
        size = request.query_params.get("page_size", "100")
        if not size.isdecimal() or int(size) not in KEYS_A_PAGE:
            raise HttpError(HTTPStatus.BAD_REQUEST, "page_size must be a number from 10 to 500.")
        keys = [key for key in self._world.keys.values() if fleet_id in {None, key.fleet_id}]
        found = [("", key.identifier, _key_document(key)) for key in keys]
        return _page(request, "keys", found, int(size), request.query_params.get("cursor"))

    async def create_fleet(self, request: Request) -> Response:
        """Create a fleet."""
        asked = await _body(request)
        fleet_id, name = asked.get("fleetId"), asked.get("fleetName")
        if not isinstance(fleet_id, str) or not fleet_id or len(fleet_id) > LONGEST_FLEET:
            raise HttpError(HTTPStatus.BAD_REQUEST, "fleetId must be a text of up to 100 characters.")
        if fleet_id in self._world.fleets:
            raise HttpError(HTTPStatus.CONFLICT, "There is such a fleet already.")
        self._world.fleets[fleet_id] = _fleet_name(name)
        return JSONResponse({"fleetId": fleet_id, "fleetName": name}, HTTPStatus.CREATED)

    async def rename(self, request: Request) -> Response:
        """Give a fleet another name; the body is not documented."""
        fleet_id = self._fleet(request)
        name = _fleet_name((await _body(request)).get("fleetName"))
        self._world.fleets[fleet_id] = name
        return JSONResponse({"fleetId": fleet_id, "fleetName": name})

    async def invitation(self, request: Request) -> Response:
        """Give the active invitation codes of a fleet; their form is not documented."""
        fleet_id = self._fleet(request)
        return JSONResponse({"fleetId": fleet_id, "invitations": [{"code": self._world.invitation(fleet_id)}]})

    def _fleet(self, request: Request) -> str:
        fleet_id: str = request.path_params["fleet_id"]
        if fleet_id not in self._world.fleets:
            raise HttpError(HTTPStatus.NOT_FOUND, "There is no such fleet.")
        return fleet_id


class RoamEndpoints:
    """The answers of Roam OCPI's module `tokens`, to who knows its token."""

    def __init__(self, world: DriveState, token: str) -> None:
        self._world = world
        self._token = token.encode()

    async def take_token(self, request: Request) -> Response:
        """Take a token as Roam OCPI does; it forwards NEVER as it is, and every other whitelist as ALLOWED_OFFLINE."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            is_ours = scheme == "Token" and compare_digest(b64decode(token), self._token)
        except ValueError:
            is_ours = False
        if not is_ours:
            return _ocpi(HTTPStatus.UNAUTHORIZED, 2000)
        try:
            document = await _body(request)
        except HttpError:
            return _ocpi(HTTPStatus.BAD_REQUEST, 2001)
        whitelist = "NEVER" if document.get("whitelist") == "NEVER" else "ALLOWED_OFFLINE"
        name = "/".join(request.path_params[part] for part in ("country", "party", "uid"))
        self._world.tokens[name] = {**document, "whitelist": whitelist}
        return _ocpi(HTTPStatus.OK, 1000)


def _page(
    request: Request, name: str, found: Sequence[tuple[str, str, Mapping[str, Any]]], size: int, cursor: object
) -> Response:
    """Give the page of entries, each with what it is sorted by, that comes after the cursor."""
    after = _position(cursor) if cursor else ("", "")
    rest = sorted((entry for entry in found if entry[:2] > after), key=lambda entry: entry[:2])
    page = rest[:size]
    document: dict[str, Any] = {name: [] if request.state.is_lost else [entry[2] for entry in page]}
    if name == "sessions":
        document["count"] = len(page)
    if len(rest) > size:
        document["cursor"] = b64encode(json.dumps(page[-1][:2]).encode()).decode()
    return JSONResponse(document)


def _position(cursor: object) -> tuple[str, str]:
    try:
        at, name = json.loads(b64decode(str(cursor)))
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "The cursor is not one of ours.") from None
    return str(at), str(name)


async def _body(request: Request) -> dict[str, Any]:
    """Read a JSON object; nothing at all is an empty one."""
    raw = await request.body()
    try:
        document = json.loads(raw) if raw else {}
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise HttpError(HTTPStatus.BAD_REQUEST, "The body must be a JSON object.")
    return document


def _time(value: object) -> datetime | None:
    try:
        return None if value is None else read_timestamp(value)
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "A time must be in ISO 8601.") from None


def _sortable(at: datetime | None) -> str:
    return "" if at is None else at.isoformat(timespec="microseconds")


def _is_between(at: datetime | None, since: datetime | None, until: datetime | None) -> bool:
    """Say whether a session has begun between these, both inclusive; one that has not begun fits no bounds."""
    if at is None:
        return since is None and until is None
    return (since or FOREVER[0]) <= at <= (until or FOREVER[1])


def _fleet_name(name: object) -> str | None:
    if name is not None and (not isinstance(name, str) or len(name) > LONGEST_FLEET):
        raise HttpError(HTTPStatus.BAD_REQUEST, "fleetName must be a text of up to 100 characters.")
    return name


def _key_document(key: Key) -> dict[str, Any]:
    return {
        "keyIdentifier": key.identifier,
        "validTo": format_timestamp(key.valid_to),
        "contractId": key.contract_id,
        "visualNumber": key.visual_number,
        **({"fleetId": key.fleet_id} if key.fleet_id else {}),
        "enabled": key.enabled,
    }


def _ocpi(status: HTTPStatus, code: int) -> Response:
    return JSONResponse({"status_code": code, "timestamp": format_timestamp(datetime.now(UTC))}, status)
