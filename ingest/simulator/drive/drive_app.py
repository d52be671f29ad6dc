"""App of the simulated Drive API and Roam OCPI, with their authentication, limits and faults.

Besides what Plugsurfing documents, `/simulator/…` reads and changes what really happened in sessions, and the faults.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hmac import compare_digest
from http import HTTPStatus
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest.simulator.drive.drive_faults import DriveFault, DriveFaults, RequestCounter, UnknownFault, parse_rates
from ingest.simulator.drive.endpoints import DriveEndpoints
from ingest.simulator.drive.state import DriveState, dump_sessions, parse_sessions

DRIVE_KEY = "made-up-drive-key"
ROAM_TOKEN = "made-up-roam-token"  # noqa: S105  no secret
SLOW_RESPONSE = 3.0
"""Seconds."""

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class DriveCredentials:
    """What clients must send."""

    api_key: str = DRIVE_KEY
    limited_key: str | None = None
    """A key with the permission to read users' sessions only."""
    roam_token: str = ROAM_TOKEN


def create_drive(
    state: DriveState,
    faults: DriveFaults | None = None,
    *,
    credentials: DriveCredentials = DriveCredentials(),
    counter: RequestCounter | None = None,
) -> Starlette:
    """Return the app: the Drive API below `/drive`, Roam OCPI's tokens below `/ocpi/2.2.1/tokens`."""
    drive = DriveEndpoints(state, credentials.roam_token)
    faults, counter = faults or DriveFaults(), counter or RequestCounter()
    guard, control = AuthAndFaults(credentials, faults, counter), ControlEndpoints(state, faults, counter)
    users, fleets = "/drive/v1/users/{user_id}", "/drive/emp/v1/fleets"
    return Starlette(
        routes=[
            Route(f"{users}/sessions/history", guard(drive.history, with_limited_key=True), methods=["POST"]),
            Route(f"{users}/sessions/{{session_id}}", guard(drive.session, with_limited_key=True)),
            Route(f"{users}/balance", guard(drive.balance)),
            Route("/drive/v1/locations/{location_id}", guard(drive.location)),
            Route("/drive/emp/v1/charging-keys", guard(drive.charging_keys)),
            Route(fleets, guard(drive.create_fleet), methods=["POST"]),
            Route(f"{fleets}/{{fleet_id}}/rename", guard(drive.rename_fleet), methods=["PUT"]),
            Route(f"{fleets}/{{fleet_id}}/invitation", guard(drive.invitation)),
            Route("/ocpi/2.2.1/tokens/{country}/{party}/{uid}", drive.put_token, methods=["PUT"]),
            Route("/simulator/sessions", control.list_sessions, methods=["GET"]),
            Route("/simulator/sessions", control.update_sessions, methods=["PUT"]),
            Route("/simulator/faults", control.set_faults, methods=["PUT"]),
            Route("/simulator/calls", control.calls),
        ],
        middleware=[Middleware(RawPathMiddleware)],
    )


class RawPathMiddleware:
    """Routes by the encoded path: an id in it may contain a slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the path on as it was sent."""
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].partition(b"?")[0].decode("ascii", "replace")}
        await self._app(scope, receive, send)


class AuthAndFaults:
    """Wraps endpoints: checks key and limits first, and injects faults."""

    def __init__(self, credentials: DriveCredentials, faults: DriveFaults, counter: RequestCounter) -> None:
        self._credentials = credentials
        self._faults = faults
        self._counter = counter

    def __call__(self, endpoint: Endpoint, *, with_limited_key: bool = False) -> Endpoint:
        """Return the wrapped endpoint."""

        async def guarded(request: Request) -> Response:
            request.scope["path_params"] = {name: unquote(part) for name, part in request.path_params.items()}
            try:
                self._authenticate(request, with_limited_key=with_limited_key)
                return await self._respond(request, endpoint)
            except HTTPException as error:
                return JSONResponse({"message": error.detail}, error.status_code)

        return guarded

    def _authenticate(self, request: Request, *, with_limited_key: bool) -> None:
        key = request.headers.get("x-api-key", "").encode()
        limited = self._credentials.limited_key
        is_limited = limited is not None and compare_digest(key, limited.encode())
        if not is_limited and not compare_digest(key, self._credentials.api_key.encode()):
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "The key is not known.")
        if is_limited and not with_limited_key:
            raise HTTPException(HTTPStatus.FORBIDDEN, "The key lacks the permission.")
        if not self._counter.count():
            raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests.")

    async def _respond(self, request: Request, endpoint: Endpoint) -> Response:
        faults = self._faults.next_faults()
        if DriveFault.SLOW in faults:
            await asyncio.sleep(SLOW_RESPONSE)
        if DriveFault.THROTTLED in faults:
            raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests.")
        if DriveFault.BROKEN in faults:
            raise HTTPException(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong.")
        request.state.loses_entries = DriveFault.LOST in faults
        response = await endpoint(request)
        if DriveFault.NONSENSE in faults:
            half = bytes(response.body)[: len(response.body) // 2]
            return Response(half, response.status_code, media_type="application/json")
        return response


class ControlEndpoints:
    """What a real Drive API lacks: its sessions and faults can be read and changed."""

    def __init__(self, state: DriveState, faults: DriveFaults, counter: RequestCounter) -> None:
        self._state = state
        self._faults = faults
        self._counter = counter

    async def list_sessions(self, _request: Request) -> Response:
        """Return what really happened in every session, one a line."""
        return Response(dump_sessions(list(self._state.sessions.values())), media_type="application/x-ndjson")

    async def update_sessions(self, request: Request) -> Response:
        """Merge what really happened in sessions, one a line."""
        try:
            sessions = parse_sessions(await request.body())
        except ValueError:
            return JSONResponse({"message": "Each line must be a session."}, HTTPStatus.BAD_REQUEST)
        return JSONResponse({"sessions": self._state.apply(sessions)})

    async def set_faults(self, request: Request) -> Response:
        """Set the faults, from a body as for `--fault`; an empty one ends them."""
        try:
            self._faults.rates = parse_rates((await request.body()).decode("utf-8", "replace"))
        except UnknownFault as unknown:
            return JSONResponse({"message": str(unknown)}, HTTPStatus.BAD_REQUEST)
        return JSONResponse({fault.value: rate for fault, rate in self._faults.rates.items()})

    async def calls(self, _request: Request) -> Response:
        """Return how many requests there were, by minute and by day."""
        return JSONResponse(self._counter.counts)
