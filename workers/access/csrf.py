"""Refuse what a foreign page makes a browser send: requests from another origin, and forms without a token."""

import hmac
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from workers.access.roles import RQ_DASHBOARD, Principal

TOKEN_FIELD = "csrf_token"  # noqa: S105 - a name
TOKEN_HEADER = "x-csrf-token"  # noqa: S105 - a name
MAX_FORM_BYTES = 65_536


def check_origin(headers: Headers) -> None:
    """Raise HTTPException if a browser says that another site, or another origin, makes this request.

    Browsers decide this by themselves if the page is encrypted or on this machine; else they name the origin.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    is_own_host = origin is None or origin.partition("://")[2] == headers.get("host")
    if not (site in {"same-origin", "none"} if site else is_own_host):
        raise HTTPException(HTTPStatus.FORBIDDEN, "This was sent from another site.")


async def check_token(headers: Headers, path: str, principal: Principal, receive: Receive) -> Receive:
    """Return a receive with the body that was read, or raise HTTPException without the right token in it.

    rq-dashboard has no place for a token. Its script names itself in a header, which a foreign page cannot set.
    """
    if path.startswith(RQ_DASHBOARD):
        if headers.get("x-requested-with") != "XMLHttpRequest" or not principal.csrf_token:
            raise HTTPException(HTTPStatus.FORBIDDEN, "This was not sent by the page of rq-dashboard.")
        return receive
    request = Request({"type": "http", "method": "POST"}, receive)
    body = await _read_body(request)
    given = headers.get(TOKEN_HEADER) or _parse(body).get(TOKEN_FIELD, "")
    if not principal.csrf_token or not hmac.compare_digest(given.encode(), principal.csrf_token.encode()):
        raise HTTPException(
            HTTPStatus.FORBIDDEN, "This form is too old, or was not sent by this page: load the page again."
        )
    return _replay(body, receive)


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, the first value of each. Raise HTTPException if it is too long."""
    return _parse(await _read_body(request))


async def _read_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form is too long.")
    return body


def _parse(body: bytes) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
