"""Secrets in files, read again while a process runs."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import structlog
from pydantic import SecretStr

from ingest.config.settings import Settings, read_secret
from ingest.errors import SettingsError

Read = TypeVar("Read")
Texts = Mapping[str, SecretStr | None]

# In seconds. A file may be seen while it is written. It is used once it has stood unchanged for so long.
SETTLE_TIME = 0.5
REREAD_EVERY = 1.0

log = structlog.get_logger()


class ReloadableSecrets(Generic[Read]):
    """What some settings mean at this moment; those that are files are read again.

    `now` may be read by any thread while one thread calls `refresh`.
    """

    def __init__(
        self,
        settings: Settings,
        names: Iterable[str],
        understand: Callable[[Texts], Read],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take their texts by name, and how they are understood: that may raise SettingsError, here too."""
        self._understand = understand
        self._monotonic = monotonic
        self._texts: Texts = {name: getattr(settings, name) for name in names}
        self._files = {name: path for name in self._texts if (path := getattr(settings, f"{name}_file")) is not None}
        self._seen: Texts = self._texts
        self._seen_at = monotonic()
        self._problem: str | None = None
        self.now = understand(self._texts)

    def refresh(self) -> list[str]:
        """Read the files again and name the settings that have changed what is meant. To be called every second or so.

        They change together, and only once their files have stood still and are good; until then the old ones stay.
        """
        try:
            texts = {**self._texts, **{name: SecretStr(read_secret(name, path)) for name, path in self._files.items()}}
            if texts == self._texts:
                self._seen, self._problem = texts, None  # what was seen for a moment would have to stand still anew
                return []
            if not self._is_stable(texts):
                return []
            now = self._understand(texts)
        except SettingsError as error:
            self._warn_once(str(error))
            return []
        changed = [name.upper() for name in self._files if texts[name] != self._texts[name]]
        before, self.now, self._texts, self._problem = self.now, now, texts, None
        return changed if now != before else []  # else the same, spelt differently

    def _is_stable(self, texts: Texts) -> bool:
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
