"""How log lines look, and which are written."""

from enum import StrEnum

from pydantic import Field
from pydantic_settings import BaseSettings


class LogFormat(StrEnum):
    """How log lines look."""

    CONSOLE = "console"
    """For people."""
    JSON = "json"
    """One object a line."""


class LogLevel(StrEnum):
    """From which level on log lines are written."""

    DEBUG = "debug"
    """Everything."""
    INFO = "info"
    """What happens."""
    WARNING = "warning"
    """What somebody should look at."""
    ERROR = "error"
    """What failed."""


class LoggingSettings(BaseSettings):
    """What is logged, and how."""

    log_format: LogFormat | None = Field(None, description="`console` or `json`")
    log_level: LogLevel = Field(LogLevel.INFO, description="`debug`, `info`, `warning` or `error`")
