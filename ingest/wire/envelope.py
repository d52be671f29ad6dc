"""Open a request: raw bytes and headers in, verified envelope out.

request -> [envelope] -> inbox -> relay -> process -> handler -> ledger
"""

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from hashlib import sha256

from ingest.errors import NotAuthentic
from ingest.wire.signature import SIGNATURE_HEADER, SIGNED_AT_HEADER, SigningKeys, verify
from ingest.wire.timestamps import read_timestamp

HEADERS_KEPT = frozenset({SIGNED_AT_HEADER, "content-type", "user-agent", "x-request-id", "requestid"})
LONGEST_HEADER = 500
WITH_AUTHORIZATION = "authorization"

_SIGNATURE = SIGNATURE_HEADER.encode()
_AUTHORIZATION = b"authorization"


def headers_to_keep(named: Iterable[str] = ()) -> Mapping[bytes, str]:
    """List the headers that are kept, by their names as ASGI gives them: ours, and those that settings name."""
    return {name.encode(): name for name in (*HEADERS_KEPT, *named)}


DEFAULT_HEADERS = headers_to_keep()


class Kind(StrEnum):
    """What a URL of ours accepts."""

    EVENTS = "events"
    """Session events."""
    CDRS = "cdrs"
    """Charging detail records."""


@dataclass(frozen=True)
class Envelope:
    """Verified bytes, not yet understood."""

    kind: Kind
    body: bytes = field(repr=False)
    received_at: datetime
    signed_with: str
    """`current`, `next`, or `authorization` where no signature is required."""
    signed_at: datetime | None
    """What the sender says: it is not covered by the signature."""
    headers: Mapping[str, str]
    """Those to be kept that came."""

    @cached_property
    def id(self) -> str:
        """Name the delivery."""
        return delivery_id(self.kind, self.body)


def delivery_id(kind: Kind, body: bytes) -> str:
    """Name what arrived: the same bytes for the same kind have the same id, on every node.

    The kind belongs to it because the signature covers neither method nor path.
    """
    return sha256(kind.encode() + b"\0" + body).hexdigest()[:32]


def verify_request(  # noqa: PLR0913 - a request has these parts, and the last three are named by the caller
    kind: Kind,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    keys: SigningKeys,
    *,
    signature_required: bool,
    received_at: datetime,
    keeping: Mapping[bytes, str] = DEFAULT_HEADERS,
) -> Envelope:
    """Verify a request, whose headers are as ASGI gives them. Raise NotAuthentic unless everything asked for is right.

    Asked for are an authorization header if `keys` has any, and a signature unless that is enough. A signature that
    came although it was not required must be right too, if there are keys to tell.
    """
    # White space around a value is no part of it (RFC 9110, 5.5), but what comes after it some parsers leave there.
    headers = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    signature = _single_header(headers, _SIGNATURE)
    signed_with = _authorized(headers, keys)
    if signature_required or (signature is not None and (keys.current or keys.next)):
        if signature is None:
            raise NotAuthentic("There is no signature.")
        signed_with = verify(body, signature, keys)
    if signed_with is None:
        raise NotAuthentic("Neither a signature nor an authorization header is asked for, so nothing proves anything.")
    kept = _kept(headers, keeping)
    return Envelope(
        kind=kind,
        body=body,
        received_at=received_at,
        signed_with=str(signed_with),
        signed_at=_signed_at(kept.get(SIGNED_AT_HEADER)),
        headers=kept,
    )


def _single_header(headers: list[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    values = [value for name, value in headers if name == wanted]
    if len(values) > 1:
        # Two readers may each take another one for the true one.
        raise NotAuthentic(f"There are {len(values)} {wanted.decode()} headers.")
    return values[0] if values else None


def _authorized(headers: list[tuple[bytes, bytes]], keys: SigningKeys) -> str | None:
    if not keys.authorizations:
        return None
    value = _single_header(headers, _AUTHORIZATION)
    if value is None:
        raise NotAuthentic("There is no authorization header.")
    # Digests are of one length, so that not even the length of a credential is told by time.
    given = sha256(value).digest()
    matches = [hmac.compare_digest(sha256(known).digest(), given) for known in keys.authorizations]
    if not any(matches):
        raise NotAuthentic("The authorization header is wrong.")
    return WITH_AUTHORIZATION


def _kept(headers: list[tuple[bytes, bytes]], keeping: Mapping[bytes, str]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = keeping.get(raw_name)
        if name is not None:
            text = raw_value.decode("latin-1")[:LONGEST_HEADER]
            kept.setdefault(name, text if text.isprintable() else "".join(filter(str.isprintable, text)))
    return kept


def _signed_at(text: str | None) -> datetime | None:
    try:
        return read_timestamp(text)
    except ValueError:
        return None
