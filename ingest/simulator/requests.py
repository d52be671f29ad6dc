"""Sign the requests that Plugsurfing would send, each with the statuses that are right for it."""

import gzip
import shlex
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus

from ingest.errors import SettingsError
from ingest.simulator.faults import Fault, PlannedRequest
from ingest.simulator.scenarios import SimulatedEvent, format_timestamp
from ingest.wire.signature import SIGNATURE_HEADER, SIGNED_AT_HEADER, SigningKeys, sign

WRONG_KEY = b"neither the current nor the next key"


class SigningKeyChoice(StrEnum):
    """The key that requests are signed with."""

    CURRENT = "current"
    """PLUGSURFING_HMAC_CURRENT."""
    NEXT = "next"
    """PLUGSURFING_HMAC_NEXT."""
    NONE = "none"
    """No key, and no signature."""
    BAD = "bad"
    """A wrong key."""


class TransferMode(StrEnum):
    """How a body is transferred."""

    WHOLE = "whole"
    """At once."""
    CHUNKED = "chunked"
    """In chunks, without its length."""
    SLOW = "slow"
    """In pieces with pauses."""


@dataclass(frozen=True)
class HttpRequest:
    """A POST without its host."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class SignedRequest(HttpRequest):
    """A signed event, and the statuses that a correct receiver may respond with."""

    event: SimulatedEvent
    transfer: TransferMode
    expected: frozenset[int]


@dataclass(frozen=True)
class RequestSigner:
    """Signs and authorizes requests."""

    keys: SigningKeys
    sign: SigningKeyChoice
    required: bool
    """Whether the receiver requires a signature."""

    def __post_init__(self) -> None:
        """Raise SettingsError if the key is not set."""
        if self.sign in {SigningKeyChoice.CURRENT, SigningKeyChoice.NEXT} and self._key(self.sign) is None:
            raise SettingsError(f"PLUGSURFING_HMAC_{self.sign.upper()} is not set.")

    def request(self, planned: PlannedRequest, *, at: datetime) -> SignedRequest:
        """Return the request with a signature of that time."""
        body = planned.event.body
        headers = {"content-type": "application/json"}
        expected = {HTTPStatus.OK}
        if Fault.GZIP in planned.faults:
            body = gzip.compress(body, mtime=0)
            headers["content-encoding"] = "gzip"
            expected = {HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
        sign_with = SigningKeyChoice.BAD if Fault.BAD_SIG in planned.faults else self.sign
        if self._is_refused(sign_with):
            # The receiver may check the signature or the encoding first.
            expected = expected - {HTTPStatus.OK} | {HTTPStatus.FORBIDDEN}
        key = self._key(sign_with)
        if key is not None:
            headers[SIGNATURE_HEADER] = sign(body, key)
            headers[SIGNED_AT_HEADER] = format_timestamp(at)
        if self.keys.authorizations:
            headers["authorization"] = self.keys.authorizations[0].decode()
        return SignedRequest(
            event=planned.event,
            path=f"/plugsurfing/{planned.event.kind}",
            headers=headers,
            body=body,
            transfer=_transfer_mode(planned.faults),
            expected=frozenset(map(int, expected)),
        )

    def _key(self, sign_with: SigningKeyChoice) -> bytes | None:
        keys = {
            SigningKeyChoice.CURRENT: self.keys.current,
            SigningKeyChoice.NEXT: self.keys.next,
            SigningKeyChoice.BAD: WRONG_KEY,
        }
        return keys.get(sign_with)

    def _is_refused(self, sign_with: SigningKeyChoice) -> bool:
        if sign_with is SigningKeyChoice.NONE:
            return self.required
        # Without a key of its own the receiver cannot tell that a signature is wrong.
        return sign_with is SigningKeyChoice.BAD and (self.required or bool(self.keys.current or self.keys.next))


def as_curl(request: SignedRequest, url: str) -> str:
    """Return the curl command that transfers the request in the same way."""
    options: dict[TransferMode, tuple[str, ...]] = {
        TransferMode.WHOLE: (),
        TransferMode.CHUNKED: ("--header", "transfer-encoding: chunked"),
        TransferMode.SLOW: ("--limit-rate", str(max(1, len(request.body) // 2))),
    }
    return curl(url, request, *options[request.transfer])


def curl(url: str, request: HttpRequest, *options: str) -> str:
    """Return the command that sends the request, with further options of curl."""
    words = ["curl", "--silent", "--show-error", f"{url}{request.path}"]
    for name, value in request.headers.items():
        words += ["--header", f"{name}: {value}"]
    words += options
    try:
        return shlex.join([*words, "--data-binary", request.body.decode()])
    except UnicodeDecodeError:  # compressed: not valid as an argument
        encoded = b64encode(request.body).decode()
        return f"printf %s {encoded} | base64 -d | {shlex.join([*words, '--data-binary', '@-'])}"


def _transfer_mode(faults: frozenset[Fault]) -> TransferMode:
    if Fault.GZIP in faults:
        # Refused by its headers: the receiver may close the connection while the body is still being sent.
        return TransferMode.WHOLE
    if Fault.SLOW in faults:
        return TransferMode.SLOW
    return TransferMode.CHUNKED if Fault.CHUNKED in faults else TransferMode.WHOLE
