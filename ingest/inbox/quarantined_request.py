"""A request that was refused, as it is stored in quarantine: without its secrets.

The value of an `Authorization` header is a secret and is not stored, but the result of its check on arrival is. A
request that failed that check passes later only if no such header is expected any more.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from ingest.errors import NotAuthentic, Refusal, WrongPath
from ingest.wire.client_address import Network, check_sender
from ingest.wire.envelope import DEFAULT_HEADERS, LONGEST_HEADER, Envelope, Kind, verify_request
from ingest.wire.signature import SIGNATURE_HEADER, SigningKeys

# Of each header: a second value is enough to show that it was doubled.
MAX_VALUES = 2
MAX_PATH = 200
WRONG_PATH = "It is authentic, but there is nothing at its path."
AUTHORIZATION = b"authorization"
SIGNATURE = SIGNATURE_HEADER.encode()


class Authorization(StrEnum):
    """The result of the check of the `Authorization` header when the request arrived."""

    NOT_ASKED = "not asked"
    """No such header was expected: only the signature counts."""
    RIGHT = "right"
    """It was one of the expected values."""
    FAILED = "failed"
    """It was missing, doubled or wrong."""


@dataclass(frozen=True)
class QuarantinedRequest:
    """A request that was refused because nothing proved that Plugsurfing sent it, or for its path."""

    seq: int
    kind: Kind
    received_at: datetime
    reason: str
    headers: tuple[tuple[str, str], ...]
    """The signature and the headers to keep, in order of arrival, two values of a name at most."""
    authorization: Authorization
    body: bytes = field(repr=False)
    sender: str | None = None
    """The address of the client, empty if it was unknown; None if no sources were configured."""
    path: str | None = None
    """The path that it came to, if nothing is there; `kind` is then a guess."""

    @property
    def headers_text(self) -> str:
        """Return the headers, the result of the authorization check, the sender and a wrong path as JSON."""
        found = {"authorization": self.authorization, "headers": self.headers, "sender": self.sender}
        return json.dumps(found if self.path is None else found | {"path": self.path})

    @cached_property
    def size(self) -> int:
        """Return the bytes that it takes in quarantine."""
        return len(self.headers_text) + len(self.body)

    def reverify(
        self,
        keys: SigningKeys,
        *,
        signature_required: bool,
        keeping: Mapping[bytes, str] = DEFAULT_HEADERS,
        sources: Collection[Network] = (),
        kind: Kind | None = None,
    ) -> Envelope:
        """Return its envelope, with the time of arrival, if it passes with these keys; else raise NotAuthentic.

        Its address has to be among `sources`, unless none were configured when it arrived. What came to a wrong path
        is of this `kind`; without one, raise WrongPath.
        """
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        if self.authorization is Authorization.NOT_ASKED:
            keys, signature_required = replace(keys, authorizations=()), True
        elif self.authorization is Authorization.RIGHT:
            headers += [(AUTHORIZATION, value) for value in keys.authorizations[:1]]
        # If it FAILED the header stays missing, and the check fails again while one is expected.
        envelope = verify_request(
            self.kind if self.path is None else kind or self.kind,
            headers,
            self.body,
            keys,
            signature_required=signature_required,
            received_at=self.received_at,
            keeping=keeping,
        )
        if sources and self.sender is not None:
            check_sender(self.sender, sources)
        if self.path is not None and kind is None:
            raise WrongPath(WRONG_PATH)
        return envelope


def from_request(  # noqa: PLR0913, PLR0917 - the parts of a request, and what it was verified with
    kind: Kind,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    refusal: Refusal,
    keys: SigningKeys,
    keeping: Mapping[bytes, str] = DEFAULT_HEADERS,
    sender: str | None = None,
    path: str | None = None,
) -> QuarantinedRequest:
    """Return a request that these keys have just refused. Its `seq` is 0 until it is stored."""
    return QuarantinedRequest(
        seq=0,
        kind=kind,
        received_at=datetime.now(UTC),
        reason=str(refusal),
        headers=tuple(_kept(headers, keeping)),
        authorization=_authorization(kind, headers, keys),
        body=body,
        sender=sender,
        path=path if path is None else path[:MAX_PATH],
    )


def _kept(headers: Sequence[tuple[bytes, bytes]], keeping: Mapping[bytes, str]) -> Iterator[tuple[str, str]]:
    seen: Counter[bytes] = Counter()
    for name, value in headers:
        if name == SIGNATURE or name in keeping:
            seen[name] += 1
            if seen[name] <= MAX_VALUES:
                yield name.decode("latin-1"), value[:LONGEST_HEADER].decode("latin-1")


def _authorization(kind: Kind, headers: Sequence[tuple[bytes, bytes]], keys: SigningKeys) -> Authorization:
    if not keys.authorizations:
        return Authorization.NOT_ASKED
    only_header = [(name, value) for name, value in headers if name == AUTHORIZATION]
    only_keys = SigningKeys(authorizations=keys.authorizations)
    try:
        verify_request(kind, only_header, b"", only_keys, signature_required=False, received_at=datetime.now(UTC))
    except NotAuthentic:
        return Authorization.FAILED
    return Authorization.RIGHT


def from_row(row: Sequence[Any]) -> QuarantinedRequest:
    """Parse a row whose columns are in the order of the table."""
    seq, kind, received_at, reason, headers_text, body = row
    found = json.loads(headers_text)
    return QuarantinedRequest(
        seq=seq,
        kind=Kind(kind),
        received_at=datetime.fromtimestamp(received_at, UTC),
        reason=reason,
        headers=tuple((name, value) for name, value in found["headers"]),
        authorization=Authorization(found["authorization"]),
        body=body,
        sender=found.get("sender"),
        path=found.get("path"),
    )
