"""What the door says: small JSON bodies, sent without Starlette's Response, which costs more than all else here."""

import json
from http import HTTPStatus

from starlette.types import Send

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")
# In seconds. Plugsurfing does not look at answers, but a proxy or a person may.
RETRY_AFTER = (b"retry-after", b"5")

ID_LENGTH = 32
ENDINGS = {False: b'", "duplicate": false}', True: b'", "duplicate": true}'}
KEPT: dict[bool, Headers] = {
    duplicate: [JSON, (b"content-length", str(len(b'{"id": "') + ID_LENGTH + len(ending)).encode())]
    for duplicate, ending in ENDINGS.items()
}


async def answer_kept(send: Send, delivery_id: str, *, duplicate: bool) -> None:
    """Say that a delivery is on disk."""
    await send({"type": "http.response.start", "status": 200, "headers": KEPT[duplicate]})
    await send({"type": "http.response.body", "body": b'{"id": "' + delivery_id.encode() + ENDINGS[duplicate]})


async def answer_error(
    send: Send, status: HTTPStatus, sentence: str, *headers: tuple[bytes, bytes], ends: bool = True
) -> None:
    """Say in a sentence why nothing was kept. Unless it `ends`, the server takes the answer for not complete yet."""
    body = json.dumps({"error": sentence}).encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": int(status), "headers": [JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": not ends})
