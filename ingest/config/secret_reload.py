"""Secrets in files, re-read while a process runs."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import structlog
from pydantic import SecretStr

from ingest.config.secrets import read_secret, trim
from ingest.config.settings import Settings
from ingest.errors import SettingsError

Value = TypeVar("Value")
Texts = Mapping[str, SecretStr | None]

# In seconds. A file may be half-written when it is read: it is used once it has been unchanged for this time.
SETTLE_TIME = 0.5
REREAD_EVERY = 1.0

log = structlog.get_logger()


class ReloadableSecrets(Generic[Value]):
    """The current value of some settings, whose files are re-read by `refresh`.

    `now` may be read by any thread while one thread calls `refresh`.
    """

    def __init__(
        self,
        settings: Settings,
        names: Iterable[str],
        parse: Callable[[Texts], Value],
        *,
        polled: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Parse the texts, by their names, with `parse`. Raise SettingsError if it does.

        With `polled`, `refresh` must be called every second or so, and watches whether a file changes; without, it may
        be called at any time, and goes by the file's modification time.
        """
        self._parse = parse
        self._polled = polled
        self._monotonic = monotonic
        self._texts: Texts = {name: getattr(settings, name) for name in names}
        self._files = {name: path for name in self._texts if (path := getattr(settings, f"{name}_file")) is not None}
        self._seen: Texts = self._texts
        self._seen_at = monotonic()
        self._problem: str | None = None
        self.now = parse(self._texts)

    def refresh(self) -> list[str]:
        """Read the files again. Return the names of the settings if the value has changed.

        They change together, once all files are stable and valid; until then the old value stays.
        """
        try:
            read = {name: SecretStr(trim(name, read_secret(name, path))) for name, path in self._files.items()}
            texts = {**self._texts, **read}
            if texts == self._texts:
                self._seen, self._problem = texts, None  # a change that was undone must be stable anew
                return []
            if not self._is_stable(texts):
                return []
            now = self._parse(texts)
        except (SettingsError, OSError) as error:
            self._warn_once(str(error) if isinstance(error, SettingsError) else type(error).__name__)
            return []
        changed = [name.upper() for name in self._files if texts[name] != self._texts[name]]
        before, self.now, self._texts, self._problem = self.now, now, texts, None
        return changed if now != before else []  # a key may be spelt differently and be the same

    def _is_stable(self, texts: Texts) -> bool:
        if not self._polled:
            return all(abs(time.time() - path.stat().st_mtime) >= SETTLE_TIME for path in self._files.values())
        if texts != self._seen:
            self._seen, self._seen_at = texts, self._monotonic()
        return self._monotonic() - self._seen_at >= SETTLE_TIME

    def _warn_once(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.warning("keys.kept_old", reason=problem)


async def reload_forever(refresh: Callable[[], object]) -> None:
    """Refresh every second until cancelled."""
    while True:
        await asyncio.sleep(REREAD_EVERY)
        await asyncio.to_thread(refresh)  # a file may lie on a slow disk
