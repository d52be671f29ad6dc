"""The access control around the dashboard: who asks, may they, and did they mean to.

request -> [host, login, role, origin, token] -> page
"""

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ingest.config.sections.dashboard import DashboardRole
from ingest.config.settings import Settings
from ingest.errors import NotAuthentic
from ingest.http.request_body import mark_authentic
from ingest.wire.client_address import check_sender, trusted_proxies
from workers.access.csrf import check_origin, check_token, read_form
from workers.access.dashboard_users import DashboardUser, DashboardUsers
from workers.access.login_cookie import LOGIN_COOKIE, REVEAL_COOKIE, LoginCookies
from workers.access.login_limit import LoginLimit
from workers.access.roles import (
    RQ_DASHBOARD,
    SAFE_METHODS,
    Principal,
    address_of,
    principal_of,
    raw_path,
    required_role,
)
from workers.access.security_headers import add_security_headers
from workers.ledger import audit_log
from workers.ledger.audit_log import Actor, AuditAct, AuditEntry
from workers.ledger.database.transaction import LedgerUnavailable, run_in_transaction

LOGIN, LOGOUT, REVEAL = "/login", "/logout", "/reveal"
OPEN = {"/healthz", LOGIN}
STATIC = "/static/"
BEHIND_PROXY = "webhooks.behind_proxy"
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
LOCAL_USER = "local"
"""Who asks where no login is required, on this machine alone."""
AUDIT_TIMEOUT = 2.0
NOT_RECORDED = "It cannot be recorded, so it is not shown. The ledger cannot be written: see `webhooks check`."
MAX_NAME = 100

log = structlog.get_logger()


class AccessControl:
    """ASGI middleware: lets through to the application only what somebody may do, with `request.user` set.

    The application answers GET /login with a form of `name`, `secret` and `next`; /logout and /reveal, whose form has
    the address of a page as `page`, are answered here.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, engine: Engine, error_page: Callable[[Request, HTTPException], Response]
    ) -> None:
        """Raise SettingsError if the dashboard would be open to other machines without a login."""
        self._error_page = error_page
        self._app = app
        self._settings = settings
        self._engine = engine
        self._users = DashboardUsers(settings)
        self._cookies = LoginCookies(settings)
        self._limit = LoginLimit()
        # Starlette's types and uvicorn's describe the same callables.
        behind: Any = ProxyHeadersMiddleware(self._guard, trusted_proxies(settings.forwarded_by))  # type: ignore[arg-type]
        self._behind_proxies: ASGIApp = behind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            peer = (scope.get("client") or ("",))[0]
            await self._behind_proxies({**scope, BEHIND_PROXY: self._is_proxy(peer)}, receive, send)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                add_security_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        request = Request(scope, receive)
        try:
            answer = await self._answer(request, receive, send_secured)
        except HTTPException as error:
            answer = self._refuse(request, error)
        if answer is not None:
            await answer(scope, receive, send_secured)

    async def _answer(self, request: Request, receive: Receive, send: Send) -> Response | None:
        """Answer a request, or let the application do so and return None. Raise HTTPException to refuse it."""
        path, method = request.scope["path"], request.method
        self._check_host(request)
        await run_in_threadpool(self._users.refresh)
        if path == LOGIN and method == "POST":
            return await self._log_in(request)
        principal = await self._identify(request)
        request.scope["user"] = principal
        if principal is None and not (path in OPEN or path.startswith(STATIC)):
            return _ask_to_log_in(request)
        if principal is not None:
            mark_authentic(request.scope)
            if not principal.may(required_role(method, path)):
                raise HTTPException(HTTPStatus.FORBIDDEN, f"Your role is {principal.role}, which may not do this.")
            if method not in SAFE_METHODS:
                check_origin(request.headers)
                receive = await check_token(request.headers, path, principal, receive)
                request = Request(request.scope, receive)
            if method == "POST" and path == LOGOUT:
                return self._log_out(request, principal)
            if method == "POST" and path == REVEAL:
                return await self._reveal(request, principal)
            if method not in SAFE_METHODS and path.startswith(RQ_DASHBOARD):
                await self._record(AuditEntry(AuditAct.QUEUES_CHANGED, actor_of(request), path))
        elif method not in SAFE_METHODS:
            raise HTTPException(HTTPStatus.FORBIDDEN, "Log in first.")
        await self._app(request.scope, receive, send)
        return None

    def _refuse(self, request: Request, error: HTTPException) -> Response:
        if _is_browser(request):
            request.scope.setdefault("user", None)
            return self._error_page(request, error)
        return PlainTextResponse(error.detail, error.status_code, headers=error.headers)

    def _check_host(self, request: Request) -> None:
        """Without a login, refuse names of this machine that are not its own: a foreign site may point one to it."""
        if not self._users.are_required and _host(request) not in LOCAL_HOSTS:
            raise HTTPException(HTTPStatus.MISDIRECTED_REQUEST, "Without a login this is at localhost only.")

    async def _identify(self, request: Request) -> Principal | None:
        """Return who asks; None if nobody says so. Raise HTTPException if a secret is wrong."""
        principal = self._of_proxy(request) or self._of_cookie(request) or await self._of_header(request)
        if principal is None and not self._users.are_required:
            principal = self._principal(LOCAL_USER, DashboardRole.ADMIN, LOCAL_USER)
        if principal is None:
            return None
        page = _page_of(raw_path(request))
        if not principal.csrf_token and request.query_params.get("reveal") == "true":  # a program, which has no cookie
            await self._record_reveal(request, principal, page)
            return replace(principal, reveals=True)
        cookie = request.cookies.get(REVEAL_COOKIE, "")
        return replace(principal, reveals=self._cookies.is_revealed(cookie, principal.name, page))

    def _of_proxy(self, request: Request) -> Principal | None:
        header = self._settings.dashboard_user_header
        if header is None or not request.scope[BEHIND_PROXY]:
            return None
        names = request.headers.getlist(header)
        if not names or not names[0].strip():
            return None
        if len(names) > 1:
            raise HTTPException(HTTPStatus.FORBIDDEN, "The user is named twice.")
        name = names[0].strip()[:MAX_NAME]
        role: DashboardRole = self._settings.dashboard_default_role
        if self._settings.dashboard_role_header is not None:
            given = request.headers.getlist(self._settings.dashboard_role_header)
            if given:
                if len(given) > 1 or given[0].strip() not in set(DashboardRole):
                    raise HTTPException(HTTPStatus.FORBIDDEN, "The proxy names no role of the dashboard.")
                role = DashboardRole(given[0].strip())
        return self._principal(name, role, f"proxy {name}")

    def _of_cookie(self, request: Request) -> Principal | None:
        value = request.cookies.get(LOGIN_COOKIE)
        found = self._cookies.read(value, self._users.find) if value else None
        if found is None:
            return None
        user, login_id = found
        return Principal(user.name, user.role, self._cookies.csrf_token(login_id), login_id)

    async def _of_header(self, request: Request) -> Principal | None:
        """Return the program behind `Authorization`, Basic or Bearer; it has no token, and can only read."""
        given = request.headers.get("authorization")
        if given is None:
            return None
        name, secret = _credentials(given)
        user = await self._verify(request, name, secret)
        if user is None:
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "The credentials are wrong.", {"www-authenticate": "Bearer"})
        return Principal(user.name, user.role)

    async def _verify(self, request: Request, name: str | None, secret: str) -> DashboardUser | None:
        address = _address(request)
        if self._limit.is_exceeded(address):
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS, "Too many wrong logins from this address.", {"retry-after": "300"}
            )
        user = self._users.verify(name, secret)
        if user is None and self._limit.count_wrong(address):
            # Without the name that was typed: it may be the secret, in the wrong field.
            known = name is not None and self._users.find(name) is not None
            actor = Actor(name if known and name else "somebody", address)
            await self._record(AuditEntry(AuditAct.LOGIN_FAILED, actor))
        return user

    async def _log_in(self, request: Request) -> Response:
        check_origin(request.headers)
        form = await read_form(request)
        target = _local_page(form.get("next", "/"))
        user = await self._verify(request, form.get("name", ""), form.get("secret", ""))
        if user is None:
            return RedirectResponse(f"{LOGIN}?wrong=1&next={quote(target, safe='')}", HTTPStatus.SEE_OTHER)
        await self._record(AuditEntry(AuditAct.LOGGED_IN, Actor(user.name, _address(request))))
        response = RedirectResponse(target, HTTPStatus.SEE_OTHER)
        self._cookies.issue(response, user, secure=_is_https(request))
        return response

    def _log_out(self, request: Request, principal: Principal) -> Response:
        response = RedirectResponse(LOGIN, HTTPStatus.SEE_OTHER)
        self._cookies.end(response, principal.login_id, secure=_is_https(request))
        return response

    async def _reveal(self, request: Request, principal: Principal) -> Response:
        target = _local_page((await read_form(request)).get("page", "/"))
        page = _page_of(urlsplit(target).path)
        await self._record_reveal(request, principal, page)
        response = RedirectResponse(target, HTTPStatus.SEE_OTHER)
        self._cookies.reveal(response, principal.name, page, secure=_is_https(request))
        return response

    async def _record_reveal(self, request: Request, principal: Principal, page: str) -> None:
        """Record who sees what is masked on a page. Raise HTTPException if it cannot be recorded."""
        page = page.removeprefix("/api")
        is_body = page.startswith(("/deliveries/", "/quarantine"))
        act = AuditAct.BODY_VIEWED if is_body else AuditAct.USER_VIEWED
        # Of a driver's page without the driver, whom nothing in the audit log names.
        subject = "/drivers/…" if page.startswith("/drivers/") else page
        if not await self._record(AuditEntry(act, Actor(principal.name, _address(request)), subject)):
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, NOT_RECORDED)

    async def _record(self, entry: AuditEntry) -> bool:
        now = datetime.now(UTC)
        try:
            await run_in_threadpool(
                run_in_transaction,
                self._engine,
                lambda ledger: audit_log.record(ledger, entry, now),
                retry_for=AUDIT_TIMEOUT,
            )
        except LedgerUnavailable as error:  # who puts the ledger right must be able to log in
            log.warning("audit.not_recorded", act=str(entry.act), reason=str(error))
            return False
        return True

    def _principal(self, name: str, role: DashboardRole, login_id: str) -> Principal:
        return Principal(name, role, self._cookies.csrf_token(login_id))

    def _is_proxy(self, peer: str) -> bool:
        try:
            check_sender(peer, self._settings.forwarded_by)
        except NotAuthentic:
            return False
        return True


def actor_of(request: HTTPConnection) -> Actor:
    """Return who makes this request, for the audit log."""
    return Actor(principal_of(request).name, _address(request))


def _ask_to_log_in(request: Request) -> Response:
    if request.method in SAFE_METHODS and _is_browser(request):
        return RedirectResponse(f"{LOGIN}?next={quote(address_of(request), safe='')}", HTTPStatus.SEE_OTHER)
    if _is_browser(request):  # a page: for the header below it would ask for a password in a window of its own
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "This requires a login. Log in, and do it again.")
    headers = {"www-authenticate": 'Basic realm="webhooks", Bearer'}
    return PlainTextResponse("This requires a login.", HTTPStatus.UNAUTHORIZED, headers=headers)


def _credentials(header: str) -> tuple[str | None, str]:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return None, value.strip()
    if scheme.lower() != "basic":
        return None, ""
    try:
        name, _, secret = b64decode(value.strip(), validate=True).decode().partition(":")
    except (NotBase64, UnicodeDecodeError):
        return None, ""
    return name, secret


def _local_page(address: str) -> str:
    """Return a page of ours, whatever a link to the form of the login says: no other site."""
    try:
        parts = urlsplit(address)
    except ValueError:  # as of "//["
        return "/"
    is_ours = (
        not parts.scheme and not parts.netloc and address.startswith("/") and not address.startswith(("//", "/\\"))
    )
    return address if is_ours and address.isprintable() else "/"


def _page_of(path: str) -> str:
    """Return the page that a path belongs to: exports are of the page whose list they export."""
    return path.removesuffix(".json").removesuffix(".csv")


def _address(request: HTTPConnection) -> str:
    return request.client.host if request.client else ""


def _is_browser(request: HTTPConnection) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _is_https(request: HTTPConnection) -> bool:
    is_https: bool = request.scope["scheme"] == "https"
    return is_https


def _host(request: HTTPConnection) -> str:
    """Return the name that the request is addressed to; empty if it is none."""
    try:
        return (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").lower()
    except ValueError:
        return ""
