"""The Drive API and Roam OCPI as we call them, played: over HTTP, on a `World`, with their limits and with faults.

Beside what Plugsurfing documents, `/simulator/…` lets the sender of events say what really happens in a session.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hmac import compare_digest
from http import HTTPStatus
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest.simulator.drive.endpoints import DriveEndpoints, HttpError, RoamEndpoints
from ingest.simulator.drive.faults import DriveFault, DriveFaults, RequestCounter, UnknownFault, read_rates
from ingest.simulator.drive.state import DriveState, SessionState

DRIVE_KEY = "made-up-drive-key"
ROAM_TOKEN = "made-up-roam-token"  # noqa: S105  it opens nothing
SLOW_ANSWER = 3.0
"""How long, in seconds, a slow answer takes."""

Answer = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Credentials:
    """What lets a caller in."""

    api_key: str = DRIVE_KEY
    limited_key: str | None = None
    """A key that may read users' sessions, and nothing else."""
    roam_token: str = ROAM_TOKEN


def create_drive(
    world: DriveState,
    faults: DriveFaults | None = None,
    *,
    credentials: Credentials = Credentials(),
    meter: RequestCounter | None = None,
) -> Starlette:
    """Make the app: the Drive API is below `/drive`, Roam OCPI's tokens below `/ocpi/2.2.1/tokens`."""
    answers, roam = DriveEndpoints(world), RoamEndpoints(world, credentials.roam_token)
    faults, meter = faults or DriveFaults(), meter or RequestCounter()
    door, simulator = AuthAndFaultMiddleware(credentials, faults, meter), ControlEndpoints(world, faults, meter)
    return Starlette(
        routes=[
            Route("/drive/v1/users/{user_id}/sessions/history", door(answers.history, is_open=True), methods=["POST"]),
            Route("/drive/v1/users/{user_id}/sessions/{session_id}", door(answers.session, is_open=True)),
            Route("/drive/v1/users/{user_id}/balance", door(answers.balance)),
            Route("/drive/v1/locations/{location_id}", door(answers.location)),
            Route("/drive/emp/v1/charging-keys", door(answers.charging_keys)),
            Route("/drive/emp/v1/fleets", door(answers.create_fleet), methods=["POST"]),
            Route("/drive/emp/v1/fleets/{fleet_id}/rename", door(answers.rename), methods=["PUT"]),
            Route("/drive/emp/v1/fleets/{fleet_id}/invitation", door(answers.invitation)),
            Route("/ocpi/2.2.1/tokens/{country}/{party}/{uid}", roam.take_token, methods=["PUT"]),
            Route("/simulator/sessions", simulator.list_sessions, methods=["GET"]),
            Route("/simulator/sessions", simulator.update_sessions, methods=["PUT"]),
            Route("/simulator/faults", simulator.change_faults, methods=["PUT"]),
            Route("/simulator/calls", simulator.calls),
        ],
        middleware=[Middleware(RawPathMiddleware)],
    )


class RawPathMiddleware:
    """Lets paths be parted before they are decoded: an id in one may have a slash in it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the path on as it was sent."""
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].partition(b"?")[0].decode("ascii", "replace")}
        await self._app(scope, receive, send)


class AuthAndFaultMiddleware:
    """Checks key and limits before an answer, and spoils it if a fault strikes."""

    def __init__(self, credentials: Credentials, faults: DriveFaults, meter: RequestCounter) -> None:
        self._credentials = credentials
        self._faults = faults
        self._meter = meter

    def __call__(self, answer: Answer, *, is_open: bool = False) -> Answer:
        """Put the door before an answer; `is_open` for the limited key, too."""

        async def guarded(request: Request) -> Response:
            request.scope["path_params"] = {name: unquote(part) for name, part in request.path_params.items()}
            try:
                self._authenticate(request, is_open=is_open)
                return await self._inject_fault(request, answer)
            except HttpError as refused:
                return JSONResponse({"message": str(refused)}, refused.status)

        return guarded

    def _authenticate(self, request: Request, *, is_open: bool) -> None:
        key = request.headers.get("x-api-key", "").encode()
        limited = self._credentials.limited_key
        is_limited = limited is not None and compare_digest(key, limited.encode())
        if not is_limited and not compare_digest(key, self._credentials.api_key.encode()):
            raise HttpError(HTTPStatus.UNAUTHORIZED, "The key is not known.")
        if is_limited and not is_open:
            raise HttpError(HTTPStatus.FORBIDDEN, "The key lacks the permission.")
        if not self._meter.count():
            raise HttpError(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests.")

    async def _inject_fault(self, request: Request, answer: Answer) -> Response:
        struck = self._faults.next_fault()
        if DriveFault.SLOW in struck:
            await asyncio.sleep(SLOW_ANSWER)
        if DriveFault.THROTTLED in struck:
            raise HttpError(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests.")
        if DriveFault.BROKEN in struck:
            raise HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong.")
        request.state.is_lost = DriveFault.LOST in struck
        given = await answer(request)
        if DriveFault.NONSENSE in struck:
            return Response(bytes(given.body)[: len(given.body) // 2], given.status_code, media_type="application/json")
        return given


class ControlEndpoints:
    """What no Drive API has: its truth, and its faults, to be read and changed."""

    def __init__(self, world: DriveState, faults: DriveFaults, meter: RequestCounter) -> None:
        self._world = world
        self._faults = faults
        self._meter = meter

    async def list_sessions(self, _request: Request) -> Response:
        """Give what really happened in every session, one a line."""
        lines = (json.dumps(truth.to_document()) + "\n" for truth in list(self._world.sessions.values()))
        return Response("".join(lines), media_type="application/x-ndjson")

    async def update_sessions(self, request: Request) -> Response:
        """Take in what really happens in sessions, one a line."""
        try:
            told = [
                SessionState.from_document(json.loads(line)) for line in (await request.body()).splitlines() if line
            ]
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"message": "Each line must be a session."}, HTTPStatus.BAD_REQUEST)
        return JSONResponse({"sessions": self._world.apply(told)})

    async def change_faults(self, request: Request) -> Response:
        """Change what goes wrong: the body is as in `--fault`, empty for nothing."""
        try:
            self._faults.rates = read_rates((await request.body()).decode("utf-8", "replace"))
        except UnknownFault as unknown:
            return JSONResponse({"message": str(unknown)}, HTTPStatus.BAD_REQUEST)
        return JSONResponse({fault.value: rate for fault, rate in self._faults.rates.items()})

    async def calls(self, _request: Request) -> Response:
        """Say how many requests there were, by minute and by day."""
        return JSONResponse(self._meter.counted)
