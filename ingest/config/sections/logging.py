"""Settings of logging."""

from enum import StrEnum

from pydantic_settings import BaseSettings

from ingest.config.types import setting


class LogFormat(StrEnum):
    """The form of log lines."""

    CONSOLE = "console"
    """For people."""
    JSON = "json"
    """One object a line."""


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    """Everything."""
    INFO = "info"
    """What happens."""
    WARNING = "warning"
    """What needs attention."""
    ERROR = "error"
    """What failed."""


class LoggingSettings(BaseSettings):
    """Every process: logging."""

    log_format: LogFormat | None = setting(None, "`console` or `json`")
    log_level: LogLevel = setting(LogLevel.INFO, "`debug`, `info`, `warning` or `error`")
