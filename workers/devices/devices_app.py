"""The process type `devices serve`: the HTTP API where the team's app or backend registers drivers' devices.

It has its own port, on the loopback address unless HOST is set: who may write here decides whose phone gets a driver's
pushes, so it must not be reachable where Plugsurfing's requests come in.
"""

import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote_to_bytes

import structlog
from sqlalchemy import Connection, Engine
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.http.openapi import ANY_TEXT, openapi_route
from ingest.http.request_body import mark_authentic
from ingest.log import configure_logging
from ingest.server.graceful_shutdown import DrainingServer
from ingest.server.serve import prepare_process, uvicorn_config
from ingest.server.socket_activation import listen
from workers.devices.lookup import InvalidDevice, check_names, parse_device
from workers.ledger import devices
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import LedgerUnavailable, run_in_transaction
from workers.net import is_loopback

log = structlog.get_logger()

OPENAPI = Path(__file__).with_name("openapi.json")
MAX_BODY_BYTES = 65_536
PATH_SEGMENTS = 3
DATABASE_TIMEOUT = 5.0


def serve_devices(settings: Settings) -> None:
    """Serve until a signal. Raise SettingsError if it would be open to other machines without a token."""
    app = create_devices_app(settings, create_ledger_engine(settings.database_url))
    configure_logging(settings, "devices")
    sockets = [listen(settings.host, settings.devices_port)]
    prepare_process()
    log.info(
        "devices.started", host=settings.host, port=settings.devices_port, has_token=settings.admin_token is not None
    )
    DrainingServer(uvicorn_config(app, settings)).run(sockets)


def create_devices_app(settings: Settings, engine: Engine) -> Starlette:
    """Build the application. Raise SettingsError if it would be open to other machines without a token."""
    token = settings.admin_token.get_secret_value() if settings.admin_token is not None else None
    if token is not None and not token.strip():
        raise SettingsError("ADMIN_TOKEN is set, but empty.")
    if token is None and not is_loopback(settings.host):
        raise SettingsError("ADMIN_TOKEN is not set, and HOST is reachable from other machines.")
    endpoints = DeviceEndpoints(engine, None if token is None else token.encode())
    return Starlette(
        routes=[
            Route("/healthz", lambda _request: JSONResponse({"status": "ok"}), methods=["GET"]),
            openapi_route(OPENAPI),
            # One route, so that a 405 names both methods.
            Route(f"/devices/{{rest:{ANY_TEXT}}}", endpoints.handle, methods=["PUT", "DELETE"]),
        ],
        exception_handlers={HTTPException: _error_response},
    )


class DeviceEndpoints:
    """Handles `PUT` and `DELETE /devices/{userId}/{token}`: both are idempotent and respond 204."""

    def __init__(self, engine: Engine, token: bytes | None) -> None:
        self._engine = engine
        self._token = token

    async def handle(self, request: Request) -> Response:
        """Register or update a device, or remove it, as when its driver signs out."""
        self._check(request)
        mark_authentic(request.scope)
        user_id, token = _names(request)
        if request.method == "DELETE":
            return await self._write(lambda ledger: devices.delete(ledger, user_id, token))
        parsed = parse_device(token, _parse(await _body(request)))
        if parsed.not_understood:
            log.info("device.not_understood", fields=parsed.not_understood)
        return await self._write(lambda ledger: devices.upsert(ledger, user_id, parsed.device, datetime.now(UTC)))

    async def _write(self, work: Callable[[Connection], object]) -> Response:
        try:
            await run_in_threadpool(run_in_transaction, self._engine, work, retry_for=DATABASE_TIMEOUT)
        except LedgerUnavailable as error:
            log.warning("device.write_failed", reason=str(error))
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE, "The database is unavailable. Try again later."
            ) from None
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
    """Parse both ids from the raw path: an encoded slash in one of them is not a separator."""
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
            if len(body) > MAX_BODY_BYTES:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body has over {MAX_BODY_BYTES} bytes.")
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The body is not complete.") from None
    return body


def _parse(body: bytes) -> dict[str, object]:
    try:
        document: object = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The body is not JSON.") from None
    if not isinstance(document, dict):
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "The body is not a JSON object.")
    return document


async def _error_response(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
