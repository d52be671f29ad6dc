"""Settings of pushes to drivers and of alerts to operators."""

from datetime import timedelta
from typing import Self

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings

from ingest.config.durations import Duration, PositiveDuration
from ingest.config.types import Channels, Folder, HttpUrl, Locale, Names, Port, PositiveInt, TimeZone, setting
from ingest.errors import SettingsError


class NotificationSettings(BaseSettings):
    """`work` and `clock`: pushes to drivers."""

    push: Channels = setting(("log",), "channels to drivers, by comma: `log`, `http`, `fcm`, and those of plugins")
    push_timeout: PositiveDuration = setting(timedelta(seconds=10), "how long a provider may take to answer")
    push_concurrency: PositiveInt = setting(20, "pushes sent at the same time, on each channel")
    push_http_url: HttpUrl | None = setting(None, "where the channel `http` sends to")
    push_http_key: SecretStr | None = setting(None, "key that the channel `http` signs with")
    push_fcm_credentials: Folder | None = setting(None, "JSON file of the service account that the channel `fcm` uses")
    devices_per_user: PositiveInt = setting(100, "devices of one driver that a push goes to, the latest first")
    fee_warning_grace: Duration = setting(timedelta(), "how long before a fee a warning is no longer worth sending")
    remind_before: Duration = setting(timedelta(), "how long before a fee starts the driver is reminded; 0: never")
    templates_dir: Folder | None = setting(
        None, "folder of your own push templates, `<locale>/<name>.txt`, which replace the built-in ones"
    )
    default_locale: Locale = setting("en", "language of a driver whose devices name none")
    default_time_zone: TimeZone = setting("Europe/Berlin", "time zone of a driver whose devices name none")

    @model_validator(mode="after")
    def _check_reminder(self) -> Self:
        if self.remind_before and self.remind_before <= self.fee_warning_grace:
            raise SettingsError("REMIND_BEFORE must be longer than FEE_WARNING_GRACE, or no reminder is ever sent.")
        return self


class DeviceSettings(BaseSettings):
    """`devices serve`: the devices that pushes go to."""

    devices_port: Port = setting(8004, "port of `devices serve`")
    admin_token: SecretStr | None = setting(None, "bearer token that `devices serve` requires")


class AlertSettings(BaseSettings):
    """`clock`: alerts and where they are sent."""

    alert_urls: SecretStr | None = setting(None, "where alerts go beside the log: Apprise URLs, by blanks or lines")
    alert_timeout: PositiveDuration = setting(timedelta(seconds=30), "how long a service may take to accept alerts")
    alert_every: PositiveDuration = setting(
        timedelta(minutes=1), "shortest time between two notifications; alerts in between share one"
    )
    alert_muted: Names = setting((), "kinds of alerts that are listed and not sent, by comma")
    watch_session_open: Duration = setting(timedelta(days=1), "how long a session may run before an alert; 0: no limit")
    watch_cdr_missing: Duration = setting(timedelta(), "longest wait for a CDR without an alert; 0: no limit")
    watch_silence: Duration = setting(
        timedelta(hours=1), "time without an event, when it is busy, before that is an alert; 0: no limit"
    )
    watch_busy: PositiveInt = setting(10, "events in a span of `WATCH_SILENCE` that make a time busy")
    watch_gap: Duration = setting(timedelta(minutes=1), "longest downtime of `serve` without an alert; 0: no limit")
