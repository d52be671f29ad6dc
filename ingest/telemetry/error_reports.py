"""Reports lines of the level `error` to Sentry: what is logged is what is reported, and nothing else."""

from importlib.util import find_spec

from structlog.typing import Processor

from ingest.config.settings import Settings
from ingest.errors import SettingsError


def error_reporter(settings: Settings) -> Processor | None:
    """Return a processor of log records that reports errors; None unless SENTRY_DSN is set.

    Raise SettingsError if the extra is not installed, or the DSN is none.
    """
    if settings.sentry_dsn is None:
        return None
    if find_spec("sentry_sdk") is None:
        raise SettingsError("SENTRY_DSN is set, which needs: pip install 'plugsurfing-webhooks[sentry]'.")
    from ingest.telemetry.sentry_report import SentryReport  # noqa: PLC0415 - the SDK takes 0.2 s to import

    return SentryReport(settings.sentry_dsn.get_secret_value())
