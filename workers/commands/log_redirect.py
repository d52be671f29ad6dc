"""Log lines of a command, for whom its output must stay clean: they go to stderr while it works."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from ingest.config.settings import Settings
from ingest.log import configure_logging


@contextmanager
def logs_to_stderr(settings: Settings, command: str) -> Iterator[None]:
    """Write log lines to stderr, and leave everything as it was: commands are also run inside of other programs."""
    was_configured, before = structlog.is_configured(), structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logging(settings, command)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.reset_defaults()
        if was_configured:
            structlog.configure(**before)
