"""Turn what Plugsurfing says into a signed request, and say which answer it deserves."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus

from ingest.errors import SettingsError
from ingest.simulator.curl import curl
from ingest.simulator.faults import Fault, PlannedRequest
from ingest.simulator.scenarios import SimulatedEvent, format_timestamp
from ingest.wire.signature import SIGNATURE_HEADER, SIGNED_AT_HEADER, SigningKeys, sign

WRONG_KEY = b"a key that is neither of ours"


class SigningKeyChoice(StrEnum):
    """What requests are signed with."""

    CURRENT = "current"
    """PLUGSURFING_HMAC_CURRENT."""
    NEXT = "next"
    """PLUGSURFING_HMAC_NEXT."""
    NONE = "none"
    """Nothing: there is no signature."""
    BAD = "bad"
    """A key that is neither."""


class TransferMode(StrEnum):
    """How a body is sent."""

    WHOLE = "whole"
    """At once."""
    CHUNKED = "chunked"
    """In chunks, its length untold."""
    SLOW = "slow"
    """In pieces with pauses."""


@dataclass(frozen=True)
class Request:
    """A request as it is sent, and the statuses that answer it rightly."""

    telling: SimulatedEvent
    path: str
    headers: Mapping[str, str]
    body: bytes
    manner: TransferMode
    expected: frozenset[int]


@dataclass(frozen=True)
class RequestSigner:
    """How requests are signed and authorized."""

    keys: SigningKeys
    sign: SigningKeyChoice
    required: bool
    """Whether the receiver asks for a signature."""

    def __post_init__(self) -> None:
        """Raise SettingsError if there is no such key."""
        if self.sign in {SigningKeyChoice.CURRENT, SigningKeyChoice.NEXT} and self._key(self.sign) is None:
            raise SettingsError(f"PLUGSURFING_HMAC_{self.sign.upper()} is not set, so nothing can be signed with it.")

    def request(self, step: PlannedRequest, *, at: datetime) -> Request:
        """Write the request for a step, signed at that time."""
        body = step.telling.body
        headers = {"content-type": "application/json"}
        expected = {HTTPStatus.OK}
        if Fault.GZIP in step.faults:
            body = gzip.compress(body, mtime=0)
            headers["content-encoding"] = "gzip"
            expected = {HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
        sign_with = SigningKeyChoice.BAD if Fault.BAD_SIG in step.faults else self.sign
        if self._is_refused(sign_with):
            # Nobody says which is looked at first.
            expected = expected - {HTTPStatus.OK} | {HTTPStatus.FORBIDDEN}
        key = self._key(sign_with)
        if key is not None:
            headers[SIGNATURE_HEADER] = sign(body, key)
            headers[SIGNED_AT_HEADER] = format_timestamp(at)
        if self.keys.authorizations:
            headers["authorization"] = self.keys.authorizations[0].decode()
        return Request(
            telling=step.telling,
            path=f"/plugsurfing/{step.telling.kind}",
            headers=headers,
            body=body,
            manner=_manner(step.faults),
            expected=frozenset(map(int, expected)),
        )

    def _key(self, sign_with: SigningKeyChoice) -> bytes | None:
        match sign_with:
            case SigningKeyChoice.CURRENT:
                return self.keys.current
            case SigningKeyChoice.NEXT:
                return self.keys.next
            case SigningKeyChoice.BAD:
                return WRONG_KEY
            case SigningKeyChoice.NONE:
                return None

    def _is_refused(self, sign_with: SigningKeyChoice) -> bool:
        if sign_with is SigningKeyChoice.NONE:
            return self.required
        # Where no signature is asked for and there is no key, nobody can tell a good one from a bad one.
        return sign_with is SigningKeyChoice.BAD and (self.required or bool(self.keys.current or self.keys.next))


def as_curl(request: Request, url: str) -> str:
    """Write the request as a line for a POSIX shell that sends it in the same manner."""
    match request.manner:
        case TransferMode.CHUNKED:
            return curl(url, request, "--header", "transfer-encoding: chunked")
        case TransferMode.SLOW:
            return curl(url, request, "--limit-rate", str(max(1, len(request.body) // 2)))
        case TransferMode.WHOLE:
            return curl(url, request)


def _manner(faults: frozenset[Fault]) -> TransferMode:
    if Fault.GZIP in faults:
        # Refused by its headers: the receiver may hang up, and who is still sending then may never see the answer.
        return TransferMode.WHOLE
    if Fault.SLOW in faults:
        return TransferMode.SLOW
    return TransferMode.CHUNKED if Fault.CHUNKED in faults else TransferMode.WHOLE
