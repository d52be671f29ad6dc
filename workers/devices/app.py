"""The process type `devices serve`: where the team's app, or its backend, registers the devices of drivers.

A listener of its own, on the loopback address unless HOST says otherwise: whoever may write here decides whose phone
gets a driver's pushes, so it must not be where Plugsurfing comes in.
"""

import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote_to_bytes

import structlog
import uvicorn
from sqlalchemy import Connection, Engine
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.http.any_path import ANY_TEXT
from ingest.http.openapi import openapi_route
from ingest.log import configure_logging
from workers.devices.lookup import InvalidDevice, check_names, parse_device
from workers.ledger import devices
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import LedgerUnavailable, run_in_transaction
from workers.net import is_loopback

log = structlog.get_logger()

OPENAPI = Path(__file__).with_name("openapi.json")
LONGEST_BODY = 4096
PATH_SEGMENTS = 3
PATIENCE = 5.0
"""How long, in seconds, an app waits for our database."""
GRACE = 6


def serve_devices(settings: Settings) -> None:
    """Serve until a signal. Raise SettingsError if anyone could come in from outside."""
    app = create_devices_app(settings, create_ledger_engine(settings.database_url))
    configure_logging(settings, "devices")
    log.info(
        "devices.started", host=settings.host, port=settings.devices_port, guarded=settings.admin_token is not None
    )
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.devices_port,
        log_config=None,
        access_log=False,  # its lines would hold user ids and tokens
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )


def create_devices_app(settings: Settings, engine: Engine) -> Starlette:
    """Build the application. Raise SettingsError if it would be open to other machines without a token."""
    token = settings.admin_token.get_secret_value() if settings.admin_token else None
    if token is not None and not token.strip():
        raise SettingsError("ADMIN_TOKEN is set, but empty.")
    if token is None and not is_loopback(settings.host):
        raise SettingsError("ADMIN_TOKEN is not set, and HOST lets others than this machine in.")
    desk = DeviceEndpoints(engine, None if token is None else token.encode())
    return Starlette(
        routes=[
            Route("/healthz", lambda _request: JSONResponse({"status": "ok"}), methods=["GET"]),
            openapi_route(OPENAPI),
            # One route, so that a 405 names both methods.
            Route(f"/devices/{{rest:{ANY_TEXT}}}", desk.handle, methods=["PUT", "DELETE"]),
        ],
        exception_handlers={HTTPException: _error_response},
    )


class DeviceEndpoints:
    """Takes `PUT` and `DELETE /devices/{userId}/{token}`: both may be repeated, and answer 204."""

    def __init__(self, engine: Engine, token: bytes | None) -> None:
        self._engine = engine
        self._token = token

    async def handle(self, request: Request) -> Response:
        """Do what the method says."""
        return await (self._register(request) if request.method == "PUT" else self._remove(request))

    async def _register(self, request: Request) -> Response:
        """Register a device, or change what is known of it: `{"platform", "locale", "time_zone"}`, each optional."""
        self._check(request)
        user_id, token = _names(request)
        try:
            device = parse_device(token, _decoded(await _body(request)))
        except InvalidDevice as error:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        return await self._write(lambda ledger: devices.put(ledger, user_id, device, datetime.now(UTC)))

    async def _remove(self, request: Request) -> Response:
        """Remove a device, when the driver signs out; one that is not there is fine."""
        self._check(request)
        user_id, token = _names(request)
        return await self._write(lambda ledger: devices.remove(ledger, user_id, token))

    async def _write(self, work: Callable[[Connection], object]) -> Response:
        try:
            await run_in_threadpool(run_in_transaction, self._engine, work, patience=PATIENCE)
        except LedgerUnavailable as error:
            log.warning("device.not_written", reason=str(error))
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "The database is away. Try again later.") from None
        return Response(status_code=HTTPStatus.NO_CONTENT)

    def _check(self, request: Request) -> None:
        if self._token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("utf-8", "surrogatepass"), self._token)
        if scheme.lower() != "bearer" or not is_right:
            headers = {"www-authenticate": "Bearer"}
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "This needs the ADMIN_TOKEN as a bearer token.", headers)


def _names(request: Request) -> tuple[str, str]:
    """Read both ids from the path as it was sent: an encoded slash in one of them parts nothing."""
    raw: bytes = request.scope["raw_path"]
    parts = raw.partition(b"?")[0].removeprefix(b"/").split(b"/")
    if len(parts) != PATH_SEGMENTS:
        raise HTTPException(HTTPStatus.NOT_FOUND, "The path is /devices/{userId}/{token}, both percent-encoded.")
    try:
        user_id, token = (unquote_to_bytes(part).decode() for part in parts[1:])
    except UnicodeDecodeError:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The path is not UTF-8.") from None
    try:
        check_names(user_id, token)
    except InvalidDevice as error:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
    return user_id, token


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST_BODY:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body has over {LONGEST_BODY} bytes.")
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The body is not complete.") from None
    return body


def _decoded(body: bytes) -> object:
    try:
        told: object = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The body is not JSON.") from None
    if not isinstance(told, dict):
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "The body is not a JSON object.")
    return told


async def _error_response(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker: it is registered for nothing else
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
