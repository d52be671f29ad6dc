"""Settings of traces and error reports."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from ingest.config.types import HttpUrl, setting


class TelemetrySettings(BaseSettings):
    """Every process: traces, and reports of errors."""

    otel_exporter_otlp_endpoint: HttpUrl | None = setting(
        None, "where traces go, by OTLP over HTTP; the paths of signals are appended"
    )
    otel_exporter_otlp_headers: SecretStr | None = setting(
        None, "headers of the requests with traces, as in `name=value,other=value`"
    )
    sentry_dsn: SecretStr | None = setting(None, "where lines of the level `error` are reported: a DSN of Sentry")
