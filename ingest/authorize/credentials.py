"""Verify the Authorization header of an authorization request; the values are reloaded when their file changes."""

import contextlib
import hmac
import time
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256

import structlog

from ingest.config.secret_reload import ReloadableSecrets, Texts
from ingest.config.secrets import authorization_values
from ingest.config.settings import Settings
from ingest.errors import NotAuthentic
from ingest.wire.authorization.request import WireFormat

NAME = "authorize_credentials"
SCHEME = b"token"

log = structlog.get_logger()


class Credentials:
    """The current values of AUTHORIZE_CREDENTIALS. `check` may be called while another thread calls `refresh`."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._digests = ReloadableSecrets(settings, [NAME], _digests, monotonic=monotonic)

    def check(self, headers: Iterable[tuple[bytes, bytes]], form: WireFormat) -> None:
        """Raise NotAuthentic unless there is exactly one Authorization header, with one of the values.

        OCPI's is `Token <credentials in base64>`, and some senders do not encode them: both are accepted, of OCPI only.
        """
        given = [value.strip(b" \t") for name, value in headers if name.lower() == b"authorization"]
        if len(given) != 1:
            # Of two headers, a proxy before us may have checked the other one.
            raise NotAuthentic(f"There are {len(given)} authorization headers.")
        # All are compared, and digests have one length: timing reveals neither a near match nor a length.
        matches = [
            hmac.compare_digest(known, sha256(candidate).digest())
            for candidate in _candidate_values(given[0], form)
            for known in self._digests.now
        ]
        if not any(matches):
            raise NotAuthentic("The authorization header is wrong.")

    def refresh(self) -> bool:
        """Read the file again and return whether the values changed. To be called every second or so."""
        changed = self._digests.refresh()
        if changed:
            log.info("keys.reread", settings=changed)
        return bool(changed)


def _digests(texts: Texts) -> tuple[bytes, ...]:
    return tuple(sha256(value).digest() for value in authorization_values(texts[NAME], NAME))


def _candidate_values(value: bytes, form: WireFormat) -> Iterator[bytes]:
    """Yield the header in each reading that its format allows: OCPI encodes the credentials, but not their scheme."""
    yield value
    scheme, _, rest = value.partition(b" ")
    if form is not WireFormat.OCPI or scheme.lower() != SCHEME:
        return
    plain = [rest.strip()]
    with contextlib.suppress(NotBase64):
        plain.append(b64decode(plain[0], validate=True))
    for each in plain:
        yield each
        yield b"Token " + each
