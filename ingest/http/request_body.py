"""Reads the body of a request, unless its headers or its length already exclude it; marks a request as authentic."""

from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from ingest.errors import TooLarge, UnsupportedEncoding

IDENTITY_CODINGS = (b"", b"identity")
# In the state of a request. The server says whether the body is there, so that nobody need wait for it.
AUTHENTIC_KEY = "authentic"
COMPLETE_KEY = "complete"


def mark_authentic(scope: Scope) -> None:
    """Mark a request as authentic: its connection is closed later than those of strangers if there are too many."""
    scope.setdefault("state", {})[AUTHENTIC_KEY] = True


def check_headers(headers: Iterable[tuple[bytes, bytes]], longest: int) -> None:
    """Raise TooLarge or UnsupportedEncoding if the headers say so. The server has checked that a length is a number."""
    for name, value in headers:
        if name == b"content-length":
            # Python parses no number of more than 4,300 digits, leading zeros included.
            if int(value.strip().lstrip(b"0") or b"0") > longest:
                raise TooLarge
        elif name == b"content-encoding" and value.strip().lower() not in IDENTITY_CODINGS:
            raise UnsupportedEncoding


async def read_body(receive: Receive, longest: int) -> bytes:
    """Return the body. Raise TooLarge as soon as it is too long, ClientDisconnect if it ends too soon."""
    gathered: bytes | bytearray = b""
    more = True
    while more:
        received = await receive()
        if received["type"] == "http.disconnect":
            raise ClientDisconnect
        body, more = received["body"], received["more_body"]
        if gathered:
            gathered += body
        else:  # nearly always there is one piece, and nothing to put together
            gathered = bytearray(body) if more else body
        if len(gathered) > longest:
            raise TooLarge
    return bytes(gathered)
