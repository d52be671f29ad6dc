"""The keys that prove a request is Plugsurfing's, re-read when their files change."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from pydantic import SecretStr

from ingest.errors import SettingsError
from ingest.settings import KEYS, Settings, authorization_values, read_secret, signing_keys

# A file may be seen while it is written. It is used once it has stood unchanged for so long (in seconds).
STANDS_STILL = 0.5
NAMES = (*KEYS, "plugsurfing_authorization")

log = structlog.get_logger()


@dataclass(frozen=True)
class Keys:
    """The keys of one moment. Never shown."""

    current: bytes | None = field(default=None, repr=False)
    next: bytes | None = field(default=None, repr=False)
    authorizations: tuple[bytes, ...] = field(default=(), repr=False)


class Keyring:
    """Holds the keys of this moment. `keys` may be read by any thread while one thread calls `refresh`."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._encoding = settings.plugsurfing_hmac_encoding
        self._monotonic = monotonic
        self._texts: dict[str, SecretStr | None] = {name: getattr(settings, name) for name in NAMES}
        self._files = {name: path for name in NAMES if (path := getattr(settings, f"{name}_file")) is not None}
        self._seen = self._texts
        self._seen_at = monotonic()
        self._problem: str | None = None
        self.keys = self._decoded(self._texts)

    def refresh(self) -> bool:
        """Read the files again and say whether the keys have changed. To be called every second or so.

        Keys change together, and only once their files have stood still and are good; until then the old ones stay.
        Beside a good CURRENT, a file of NEXT that is empty, gone or says the same is good: it means no next key.
        """
        try:
            texts = self._texts | {name: SecretStr(read_secret(name, path)) for name, path in self._files.items()}
            if texts == self._texts:
                self._seen, self._problem = texts, None  # what was seen for a moment would have to stand still anew
                return False
            if not self._stands_still(texts):
                return False
            keys = self._decoded(texts)
        except SettingsError as error:
            self._warn_once(str(error))
            return False
        changed = [name.upper() for name in self._files if texts[name] != self._texts[name]]
        before, self.keys, self._texts, self._problem = self.keys, keys, texts, None
        if keys == before:  # the same, spelt differently
            return False
        log.info("keys.reread", settings=changed, has_next=keys.next is not None)
        return True

    def _stands_still(self, texts: dict[str, SecretStr | None]) -> bool:
        if texts != self._seen:
            self._seen, self._seen_at = texts, self._monotonic()
        return self._monotonic() - self._seen_at >= STANDS_STILL

    def _warn_once(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.warning("keys.kept_old", reason=problem)

    def _decoded(self, texts: dict[str, SecretStr | None]) -> Keys:
        current, following, authorization = (texts[name] for name in NAMES)
        signing = signing_keys(current, following, self._encoding, next_is_file=KEYS[1] in self._files)
        return Keys(*signing, authorization_values(authorization))
