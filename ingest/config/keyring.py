"""The keys that authenticate requests of Plugsurfing, re-read when their files change."""

import time
from collections.abc import Callable

import structlog

from ingest.config.secret_reload import ReloadableSecrets, Texts
from ingest.config.secrets import SIGNING_KEYS, authorization_values, signing_keys
from ingest.config.settings import Settings
from ingest.wire.signature import SigningKeys

NAMES = (*SIGNING_KEYS, "plugsurfing_authorization")

log = structlog.get_logger()


class Keyring:
    """The current keys. `keys` may be read by any thread while one thread calls `refresh`."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._encoding = settings.plugsurfing_hmac_encoding
        self._next_is_file = settings.plugsurfing_hmac_next_file is not None
        self._secrets = ReloadableSecrets(settings, NAMES, self._parse, monotonic=monotonic)
        self.keys = self._secrets.now

    def refresh(self) -> bool:
        """Read the files again and return whether the keys have changed. To be called every second or so."""
        changed = self._secrets.refresh()
        if not changed:
            return False
        self.keys = self._secrets.now
        log.info("keys.reread", settings=changed, has_next=self.keys.next is not None)
        return True

    def _parse(self, texts: Texts) -> SigningKeys:
        current, following, authorization = (texts[name] for name in NAMES)
        signing = signing_keys(current, following, self._encoding, next_is_file=self._next_is_file)
        return SigningKeys(*signing, authorization_values(authorization))
