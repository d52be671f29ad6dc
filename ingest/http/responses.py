"""What doors say: small JSON bodies, sent without Starlette's Response, which costs more than all else here."""

import asyncio
import json
from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import Send

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
CONNECTION_CLOSE = (b"connection", b"close")
# In seconds. Plugsurfing does not look at answers, but a proxy or a person may.
RETRY_AFTER = (b"retry-after", b"5")
# How long a connection stays open, in seconds, whose body we do not read to its end. Closed at once, a sender who is
# still busy sending would find it reset before it finds our answer.
DRAIN_TIME = 0.5

ID_LENGTH = 32
BODY_SUFFIX = {False: b'", "duplicate": false}', True: b'", "duplicate": true}'}
KEPT: dict[bool, Headers] = {
    duplicate: [JSON, (b"content-length", str(len(b'{"id": "') + ID_LENGTH + len(ending)).encode())]
    for duplicate, ending in BODY_SUFFIX.items()
}


async def send_accepted(send: Send, delivery_id: str, *, duplicate: bool) -> None:
    """Say that a delivery is on disk."""
    await send({"type": "http.response.start", "status": 200, "headers": KEPT[duplicate]})
    await send({"type": "http.response.body", "body": b'{"id": "' + delivery_id.encode() + BODY_SUFFIX[duplicate]})


async def send_error(send: Send, status: HTTPStatus, sentence: str, *headers: tuple[bytes, bytes]) -> None:
    """Say in a sentence why a request came to nothing."""
    await send_response(send, status, error_body(sentence), headers)


def error_body(sentence: str) -> bytes:
    """Write a sentence as the body of an answer."""
    return json.dumps({"error": sentence}).encode()


async def send_response(
    send: Send, status: HTTPStatus, body: bytes, headers: Iterable[tuple[bytes, bytes]], *, ends: bool = True
) -> None:
    """Send an answer. Unless it `ends`, the server takes it for not complete yet, though all of it is sent."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": int(status), "headers": [JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": not ends})


async def send_and_close(
    send: Send, status: HTTPStatus, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer without having read all, so the connection cannot be used again."""
    await send_response(send, status, body, (CONNECTION_CLOSE, *headers), ends=False)
    await asyncio.sleep(DRAIN_TIME)
    await send({"type": "http.response.body"})
