"""The keys that prove a request is Plugsurfing's, re-read when their files change."""

import time
from collections.abc import Callable

import structlog

from ingest.config.secret_reload import ReloadableSecrets, Texts
from ingest.config.settings import KEYS, Settings, authorization_values, signing_keys
from ingest.wire.signature import SigningKeys

NAMES = (*KEYS, "plugsurfing_authorization")

log = structlog.get_logger()


class Keyring:
    """Holds the keys of this moment. `keys` may be read by any thread while one thread calls `refresh`."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._encoding = settings.plugsurfing_hmac_encoding
        self._next_is_file = settings.plugsurfing_hmac_next_file is not None
        self._reading = ReloadableSecrets(settings, NAMES, self._decoded, monotonic=monotonic)
        self.keys = self._reading.now

    def refresh(self) -> bool:
        """Read the files again and say whether the keys have changed. To be called every second or so.

        Beside a good CURRENT, a file of NEXT that is empty, gone or says the same is good: it means no next key.
        """
        changed = self._reading.refresh()
        if not changed:
            return False
        self.keys = self._reading.now
        log.info("keys.reread", settings=changed, has_next=self.keys.next is not None)
        return True

    def _decoded(self, texts: Texts) -> SigningKeys:
        current, following, authorization = (texts[name] for name in NAMES)
        signing = signing_keys(current, following, self._encoding, next_is_file=self._next_is_file)
        return SigningKeys(*signing, authorization_values(authorization))
