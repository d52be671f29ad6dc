"""A request that was refused, laid down without its secrets.

The value of an `Authorization` header is a secret and not kept. What became of its check on arrival is kept instead:
a request that failed it can only be let in later if no such header is asked for any more.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from ingest.errors import NotAuthentic
from ingest.wire.client_address import AllowedSources
from ingest.wire.envelope import DEFAULT_HEADERS, LONGEST_HEADER, Envelope, Kind, verify_request
from ingest.wire.signature import SIGNATURE_HEADER, SigningKeys

# Of each name: a second one is enough to tell that it was doubled.
MOST_VALUES = 2
AUTHORIZATION = b"authorization"
SIGNATURE = SIGNATURE_HEADER.encode()


class Authorization(StrEnum):
    """What became of the check of the `Authorization` header when a request arrived."""

    NOT_ASKED = "not asked"
    """No such header was expected: the signature alone has to prove everything."""
    RIGHT = "right"
    """It was one of the expected values."""
    FAILED = "failed"
    """It was missing, doubled or wrong."""


@dataclass(frozen=True)
class QuarantinedRequest:
    """A request that was refused because nothing proved that it is Plugsurfing's."""

    seq: int
    kind: Kind
    received_at: datetime
    reason: str
    headers: tuple[tuple[str, str], ...]
    """Some, in the order they came, and of each name two at most; the signature is among them."""
    authorization: Authorization
    body: bytes = field(repr=False)
    sender: str | None = None
    """The address it came from, empty if that could not be told; None if it was not asked for."""

    @property
    def headers_text(self) -> str:
        """Write down the headers, what became of the one that is not among them, and the sender."""
        return json.dumps({"authorization": self.authorization, "headers": self.headers, "sender": self.sender})

    @cached_property
    def size(self) -> int:
        """Tell what it takes to keep it, in bytes."""
        return len(self.headers_text) + len(self.body)

    def reverify(
        self,
        keys: SigningKeys,
        *,
        signature_required: bool,
        keeping: Mapping[bytes, str] = DEFAULT_HEADERS,
        sources: AllowedSources | None = None,
    ) -> Envelope:
        """Open it with these keys, as received when it was. Raise NotAuthentic if it still proves nothing.

        Its address has to be among today's sources, unless none was asked for when it came.
        """
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        if self.authorization is Authorization.NOT_ASKED:
            keys, signature_required = replace(keys, authorizations=()), True
        elif self.authorization is Authorization.RIGHT:
            headers += [(AUTHORIZATION, value) for value in keys.authorizations[:1]]
        # And if it failed the header stays away: no entry while one is asked for.
        envelope = verify_request(
            self.kind,
            headers,
            self.body,
            keys,
            signature_required=signature_required,
            received_at=self.received_at,
            keeping=keeping,
        )
        if sources is not None and self.sender is not None:
            sources.check(self.sender)
        return envelope


def from_request(  # noqa: PLR0913, PLR0917 - a request has these parts, and more was known when it was refused
    kind: Kind,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    refusal: NotAuthentic,
    keys: SigningKeys,
    keeping: Mapping[bytes, str] = DEFAULT_HEADERS,
    sender: str | None = None,
) -> QuarantinedRequest:
    """Lay down a request that has just been refused with these keys; it has no number yet."""
    return QuarantinedRequest(
        seq=0,
        kind=kind,
        received_at=datetime.now(UTC),
        reason=str(refusal),
        headers=tuple(_kept(headers, keeping)),
        authorization=_authorization(kind, headers, keys),
        body=body,
        sender=sender,
    )


def _kept(headers: Sequence[tuple[bytes, bytes]], keeping: Mapping[bytes, str]) -> Iterator[tuple[str, str]]:
    seen: Counter[bytes] = Counter()
    for name, value in headers:
        if name == SIGNATURE or name in keeping:
            seen[name] += 1
            if seen[name] <= MOST_VALUES:
                yield name.decode("latin-1"), value[:LONGEST_HEADER].decode("latin-1")


def _authorization(kind: Kind, headers: Sequence[tuple[bytes, bytes]], keys: SigningKeys) -> Authorization:
    if not keys.authorizations:
        return Authorization.NOT_ASKED
    alone = [(name, value) for name, value in headers if name == AUTHORIZATION]
    only_these = SigningKeys(authorizations=keys.authorizations)
    try:
        verify_request(kind, alone, b"", only_these, signature_required=False, received_at=datetime.now(UTC))
    except NotAuthentic:
        return Authorization.FAILED
    return Authorization.RIGHT


def from_row(row: Sequence[Any]) -> QuarantinedRequest:
    """Read a request from the columns of its row, in the order of the fields."""
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
    )
