"""Verify a request: raw bytes and headers in, verified envelope out.

request -> [envelope] -> inbox -> relay -> jobs -> handler -> ledger
"""

import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

from ingest.errors import NotAuthentic
from ingest.wire.signature import SIGNATURE_HEADER, SIGNED_AT_HEADER, SigningKeys, verify
from ingest.wire.timestamps import parse_timestamp

HEADERS_KEPT = frozenset({SIGNED_AT_HEADER, "content-type", "user-agent", "x-request-id", "requestid"})
LONGEST_HEADER = 500
WITH_AUTHORIZATION = "authorization"

_SIGNATURE = SIGNATURE_HEADER.encode()
_AUTHORIZATION = b"authorization"


def headers_to_keep(named: Iterable[str] = ()) -> Mapping[bytes, str]:
    """Return the names of the headers that are kept, by their ASGI names (bytes): HEADERS_KEPT and `named`."""
    return {name.encode(): name for name in (*HEADERS_KEPT, *named)}


DEFAULT_HEADERS = headers_to_keep()


class Kind(StrEnum):
    """What a URL accepts."""

    EVENTS = "events"
    """Session events."""
    CDRS = "cdrs"
    """Charging detail records."""


class Envelope(NamedTuple):
    """Verified bytes, not yet parsed."""

    kind: Kind
    body: bytes
    received_at: datetime
    signed_with: str
    """`current`, `next`, or `authorization` where no signature is required."""
    signed_at: datetime | None
    """As the sender claims: the signature does not cover it."""
    headers: Mapping[str, str]
    """The headers of the request that are kept."""

    @property
    def id(self) -> str:
        """Return the id of the delivery. It is computed each time."""
        return delivery_id(self.kind, self.body)

    def __repr__(self) -> str:
        """Return no body: an envelope may end up in a traceback."""
        return f"Envelope({self.kind}, id={self.id})"


def delivery_id(kind: Kind, body: bytes) -> str:
    """Return the id of a delivery: equal bytes of one kind have the same id, on every node.

    The kind is part of it because the signature covers neither method nor path.
    """
    return sha256(kind.encode() + b"\0" + body).hexdigest()[:32]


def verify_request(  # noqa: PLR0913 - the parts of a request
    kind: Kind,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    keys: SigningKeys,
    *,
    signature_required: bool,
    received_at: datetime,
    keeping: Mapping[bytes, str] = DEFAULT_HEADERS,
) -> Envelope:
    """Verify a request, whose headers are in ASGI's form. Raise NotAuthentic unless every required proof is valid.

    Required are an authorization header if `keys` has any, and a signature if `signature_required`. A signature that
    is not required must be valid too, if there are keys.
    """
    signatures: list[bytes] = []
    authorizations: list[bytes] = []
    kept: dict[str, str] = {}
    for raw_name, raw_value in headers:
        # White space around a value is not part of it (RFC 9110, 5.5), but some parsers leave trailing white space.
        name, value = raw_name.lower(), raw_value.strip(b" \t")
        if name == _SIGNATURE:
            signatures.append(value)
        elif name == _AUTHORIZATION:
            authorizations.append(value)
        elif (known := keeping.get(name)) is not None and known not in kept:
            text = value.decode("latin-1")[:LONGEST_HEADER]
            kept[known] = text if text.isprintable() else "".join(filter(str.isprintable, text))
    signature = _single(signatures, SIGNATURE_HEADER)
    signed_with = _authorized(authorizations, keys)
    if signature_required or (signature is not None and (keys.current or keys.next)):
        if signature is None:
            raise NotAuthentic("There is no signature.")
        signed_with = verify(body, signature, keys)
    if signed_with is None:
        raise NotAuthentic("Neither a signature nor an authorization header is required.")
    signed_at = kept.get(SIGNED_AT_HEADER)
    return Envelope(
        kind, body, received_at, str(signed_with), None if signed_at is None else _signed_at(signed_at), kept
    )


def _single(values: list[bytes], name: str) -> bytes | None:
    if len(values) > 1:
        # Two parsers may disagree on which one counts.
        raise NotAuthentic(f"There are {len(values)} {name} headers.")
    return values[0] if values else None


def _authorized(values: list[bytes], keys: SigningKeys) -> str | None:
    if not keys.authorizations:
        return None
    value = _single(values, "authorization")
    if value is None:
        raise NotAuthentic("There is no authorization header.")
    # Digests are of one length, so that timing does not reveal the length of a credential.
    given = sha256(value).digest()
    matches = [hmac.compare_digest(sha256(known).digest(), given) for known in keys.authorizations]
    if not any(matches):
        raise NotAuthentic("The authorization header is wrong.")
    return WITH_AUTHORIZATION


def _signed_at(text: str) -> datetime | None:
    try:
        return parse_timestamp(text)
    except ValueError:
        return None
