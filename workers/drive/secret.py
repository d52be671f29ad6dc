"""A secret that we send, read again from its file each time that it is needed, so that a new one needs no restart."""

import re
import time
from pathlib import Path

import structlog

from ingest.config.settings import Settings, read_secret
from ingest.errors import SettingsError

STANDS_STILL = 0.5
"""Seconds that a file must have been unchanged: younger, it may be half-written."""

HEADER_SAFE = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")

log = structlog.get_logger()


class ReloadableSecret:
    """The value of a setting, or of the file that it names. Raises SettingsError if there is none, or no good one."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._name = name
        value = getattr(settings, name)
        path = getattr(settings, f"{name}_file")
        self._path = path if isinstance(path, Path) else None
        self._text = self._checked(value.get_secret_value() if value is not None else "")
        self._problem: str | None = None

    def text(self) -> str:
        """Return it as it is now. A file that is gone, empty or being written leaves the old one in force."""
        if self._path is None:
            return self._text
        try:
            text = self._checked(read_secret(self._name, self._path))
            if text != self._text and abs(time.time() - self._path.stat().st_mtime) >= STANDS_STILL:
                self._text = text
                log.info("key.reread", setting=self._name.upper())
            self._problem = None
        except (SettingsError, OSError) as error:
            problem = str(error) if isinstance(error, SettingsError) else type(error).__name__
            if problem != self._problem:
                self._problem = problem
                log.warning("key.kept_old", reason=problem)
        return self._text

    def _checked(self, text: str) -> str:
        text = text.strip()
        if not text:
            raise SettingsError(f"{self._name.upper()} is not set.")
        if not HEADER_SAFE.fullmatch(text):
            raise SettingsError(f"{self._name.upper()} has signs in it that no header can carry.")
        return text
