"""Settings of pushes to drivers and of alerts to operators."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode

from ingest.config.durations import Duration, PositiveDuration
from ingest.config.types import ChannelName, Folder, HttpUrl, Locale, Names, Port, PositiveInt, TimeZone, split_commas
from ingest.errors import SettingsError

Channels = Annotated[tuple[ChannelName, ...], NoDecode, BeforeValidator(split_commas), Field(min_length=1)]


class NotificationSettings(BaseSettings):
    """`work`, `clock` and `devices serve`: pushes to drivers."""

    push: Channels = Field(
        ("log",), description="channels to drivers, by comma: `log`, `http`, `fcm`, and those of plugins"
    )
    push_timeout: PositiveDuration = Field(timedelta(seconds=10), description="how long a provider may take to answer")
    push_concurrency: PositiveInt = Field(20, description="pushes sent at the same time, on each channel")
    push_http_url: HttpUrl | None = Field(None, description="where the channel `http` sends to")
    push_http_key: SecretStr | None = Field(None, description="key that the channel `http` signs with")
    push_fcm_credentials: Folder | None = Field(
        None, description="JSON file of the service account that the channel `fcm` uses"
    )
    devices_port: Port = Field(8004, description="port of `devices serve`")
    admin_token: SecretStr | None = Field(None, description="bearer token that `devices serve` requires")
    fee_warning_grace: Duration = Field(
        timedelta(), description="how long before a fee starts a warning is no longer worth sending"
    )
    remind_before: Duration = Field(
        timedelta(), description="how long before a fee starts the driver is reminded; 0: never"
    )
    templates_dir: Folder | None = Field(
        None, description="folder of your own push templates, `<locale>/<name>.txt`, which replace the built-in ones"
    )
    default_locale: Locale = Field("en", description="language of a driver whose devices name none")
    default_time_zone: TimeZone = Field("Europe/Berlin", description="time zone of a driver whose devices name none")

    @model_validator(mode="after")
    def _check_reminder(self) -> Self:
        if self.remind_before and self.remind_before <= self.fee_warning_grace:
            raise SettingsError("REMIND_BEFORE must be longer than FEE_WARNING_GRACE, or no reminder is ever sent.")
        return self


class AlertSettings(BaseSettings):
    """`clock`: alerts and where they are sent."""

    alert_urls: SecretStr | None = Field(
        None, description="where alerts are sent beside the log: Apprise URLs, separated by blanks or lines"
    )
    alert_timeout: PositiveDuration = Field(
        timedelta(seconds=30), description="how long a service may take to accept alerts"
    )
    alert_every: PositiveDuration = Field(
        timedelta(minutes=1), description="shortest time between two notifications; alerts in between share one"
    )
    alert_muted: Names = Field((), description="kinds of alerts that are listed and not sent, by comma")
    watch_session_open: Duration = Field(
        timedelta(days=1), description="how long a session may run before that is an alert; 0: no limit"
    )
    watch_cdr_missing: Duration = Field(
        timedelta(), description="how long a complete session may lack a CDR before that is an alert; 0: no limit"
    )
    watch_silence: Duration = Field(
        timedelta(hours=1),
        description="time without an event, when it is busy, before that is an alert; 0: no limit",
    )
    watch_busy: PositiveInt = Field(10, description="events in a span of `WATCH_SILENCE` that make a time busy")
    watch_gap: Duration = Field(
        timedelta(minutes=1), description="how long a downtime of `serve` may be before that is an alert; 0: no limit"
    )
