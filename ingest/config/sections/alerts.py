"""What somebody should look at, and how they are told."""

from datetime import timedelta

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from ingest.config.durations import Duration, PositiveDuration
from ingest.config.types import Names, PositiveInt


class AlertSettings(BaseSettings):
    """When there is an alert, and who is told of it."""

    alert_urls: SecretStr | None = Field(
        None, description="where alerts are sent beside the log: Apprise's URLs, with blanks or on a line each"
    )
    alert_timeout: PositiveDuration = Field(
        timedelta(seconds=30), description="how long a service may take to take alerts"
    )
    alert_every: PositiveDuration = Field(
        timedelta(minutes=1), description="shortest time between two notifications; what comes meanwhile shares one"
    )
    alert_muted: Names = Field((), description="kinds of alerts that are listed and not told, by comma")
    watch_session_open: Duration = Field(
        timedelta(days=1), description="how long a session may run before that is an alert; 0: as long as it likes"
    )
    watch_cdr_missing: Duration = Field(
        timedelta(), description="how long a complete session may be without a CDR before that is an alert; 0: for ever"
    )
    watch_silence: Duration = Field(
        timedelta(hours=1), description="how long no event may come at a busy time before that is an alert; 0: for ever"
    )
    watch_busy: PositiveInt = Field(10, description="events in a span of `WATCH_SILENCE` that make its time a busy one")
    watch_gap: Duration = Field(
        timedelta(minutes=1), description="how long the door may be closed before that is an alert; 0: for ever"
    )
