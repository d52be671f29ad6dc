"""Sends log records of the level `error` to Sentry, with Sentry's SDK."""

import sys

import sentry_sdk
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.types import Event, Hint
from sentry_sdk.utils import BadDsn, event_from_exception
from structlog.typing import EventDict, WrappedLogger

from ingest.errors import SettingsError

REPORTED_LEVELS = ("error", "critical")
# What tells problems apart, and can be searched for.
TAGS = ("process", "handler", "delivery", "channel", "error")
GROUPED_BY = ("handler", "channel", "error")
# Sent in places of their own.
NOT_EXTRA = {"event", "level", "exc_info", "timestamp", *TAGS}
# Seconds.
EXIT_TIMEOUT = 2.0


class SentryReport:
    """A processor of log records, which it passes on unchanged; a thread of the SDK sends what it reports.

    The SDK's own integrations are off: they read requests, local variables and arguments, which are bodies and keys.
    """

    def __init__(self, dsn: str) -> None:
        """Start the SDK. Raise SettingsError if the DSN is none."""
        try:
            sentry_sdk.init(
                dsn,
                default_integrations=False,
                integrations=[AtexitIntegration(callback=lambda _waiting, _timeout: None)],
                include_local_variables=False,
                max_breadcrumbs=0,
                shutdown_timeout=EXIT_TIMEOUT,
                before_send=_without_texts,
            )
        except BadDsn:
            raise SettingsError("SENTRY_DSN is not a DSN, as in https://key@sentry.example/1.") from None

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        """Report the record if it is an error."""
        if line.get("level") in REPORTED_LEVELS:
            event, hint = _event(line)
            sentry_sdk.capture_event(event, hint)
        return line


def _event(line: EventDict) -> tuple[Event, Hint]:
    name = str(line["event"])
    event: Event = {
        "level": line["level"],
        "message": name,
        "fingerprint": [name, *(str(line[key]) for key in GROUPED_BY if key in line)],
        "tags": {key: str(line[key]) for key in TAGS if key in line},
        "extra": {key: value for key, value in line.items() if key not in NOT_EXTRA and not key.startswith("_")},
    }
    raised = line.get("exc_info")
    if raised is True:
        raised = sys.exc_info()
    if not raised or raised == (None, None, None):
        return event, {}
    found, hint = event_from_exception(raised, sentry_sdk.get_client().options)
    return {**event, "exception": found["exception"]}, hint


def _without_texts(event: Event, _hint: Hint) -> Event:
    """Remove the texts of exceptions: they may be bodies, or name drivers."""
    for each in event.get("exception", {}).get("values", ()):
        each["value"] = ""
    return event
