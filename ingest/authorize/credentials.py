"""What proves that a question is Plugsurfing's: an authorization header, re-read when its file changes."""

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
    """Holds the values of this moment. `check` may be called while another thread calls `refresh`."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._digests = ReloadableSecrets(settings, [NAME], _digests, monotonic=monotonic)

    def check(self, headers: Iterable[tuple[bytes, bytes]], form: WireFormat) -> None:
        """Raise NotAuthentic unless there is one authorization header, and it has one of the values.

        OCPI's is `Token <credentials in base64>`, and some send them plain: both are taken, of that form only.
        """
        given = [value.strip(b" \t") for name, value in headers if name.lower() == b"authorization"]
        if len(given) != 1:
            # Of two, two readers may each take another one for the true one.
            raise NotAuthentic(f"There are {len(given)} authorization headers.")
        # All are compared, and digests are of one length: time tells neither which is near nor how long it is.
        matches = [
            hmac.compare_digest(known, sha256(reading).digest())
            for reading in _candidate_values(given[0], form)
            for known in self._digests.now
        ]
        if not any(matches):
            raise NotAuthentic("The authorization header is wrong.")

    def refresh(self) -> bool:
        """Read the file again and say whether the values have changed. To be called every second or so."""
        changed = self._digests.refresh()
        if changed:
            log.info("keys.reread", settings=changed)
        return bool(changed)


def _digests(texts: Texts) -> tuple[bytes, ...]:
    return tuple(sha256(value).digest() for value in authorization_values(texts[NAME], NAME))


def _candidate_values(value: bytes, form: WireFormat) -> Iterator[bytes]:
    """Read the header in each way that its form knows: OCPI encodes the credentials, but not their scheme."""
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
