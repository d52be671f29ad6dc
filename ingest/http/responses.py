"""Small JSON responses, sent without Starlette's Response, which costs more than everything else here."""

import asyncio
import json
from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import Send

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
CONNECTION_CLOSE = (b"connection", b"close")
# In seconds. Plugsurfing ignores responses, but a proxy or a person may not.
RETRY_AFTER = (b"retry-after", b"5")
# How long, in seconds, a connection stays open whose body is not read to its end. Closed at once, a sender that is
# still sending would get a reset before it gets the response.
DRAIN_TIME = 0.5


class FixedHeaders(list[tuple[bytes, bytes]]):
    """Headers of which a server checks and encodes only the first response: they are a constant of the program.

    They hold the length of the body, which is sent at once, and nothing about the connection.
    """


ID_LENGTH = 32
BODY_SUFFIX = {False: b'", "duplicate": false}', True: b'", "duplicate": true}'}
ACCEPTED_HEADERS = {
    duplicate: FixedHeaders([JSON, (b"content-length", str(len(b'{"id": "') + ID_LENGTH + len(suffix)).encode())])
    for duplicate, suffix in BODY_SUFFIX.items()
}


async def send_accepted(send: Send, delivery_id: str, *, duplicate: bool) -> None:
    """Answer that a delivery is on disk."""
    await send({"type": "http.response.start", "status": 200, "headers": ACCEPTED_HEADERS[duplicate]})
    await send({"type": "http.response.body", "body": b'{"id": "' + delivery_id.encode() + BODY_SUFFIX[duplicate]})


async def send_error(send: Send, status: HTTPStatus, sentence: str, *headers: tuple[bytes, bytes]) -> None:
    """Answer with the reason why a request came to nothing."""
    await send_response(send, status, error_body(sentence), headers)


def error_body(sentence: str) -> bytes:
    """Return a sentence as the body of a response."""
    return json.dumps({"error": sentence}).encode()


async def send_response(
    send: Send, status: HTTPStatus, body: bytes, headers: Iterable[tuple[bytes, bytes]], *, ends: bool = True
) -> None:
    """Send a response. Unless it `ends`, the server does not regard it as complete yet, though all of it is sent."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": int(status), "headers": [JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": not ends})


async def send_and_close(
    send: Send, status: HTTPStatus, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer a request that was not read to its end, so that its connection cannot be used again."""
    await send_response(send, status, body, (CONNECTION_CLOSE, *headers), ends=False)
    await asyncio.sleep(DRAIN_TIME)
    await send({"type": "http.response.body"})
