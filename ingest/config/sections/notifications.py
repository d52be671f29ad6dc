"""How drivers are reached, and in which words."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode

from ingest.config.durations import Duration, PositiveDuration
from ingest.config.types import ChannelName, Folder, HttpUrl, Locale, Port, PositiveInt, TimeZone, split_commas
from ingest.errors import SettingsError

Channels = Annotated[tuple[ChannelName, ...], NoDecode, BeforeValidator(split_commas), Field(min_length=1)]


class NotificationSettings(BaseSettings):
    """How drivers are told."""

    push: Channels = Field(
        ("log",), description="channels to drivers, by comma: `log`, `http`, `fcm`, and those of plugins"
    )
    push_timeout: PositiveDuration = Field(timedelta(seconds=10), description="how long a provider may take to answer")
    push_concurrency: PositiveInt = Field(20, description="pushes on their way at once, on each channel")
    push_http_url: HttpUrl | None = Field(None, description="where the channel `http` sends to")
    push_http_key: SecretStr | None = Field(None, description="key that the channel `http` signs with")
    push_fcm_credentials: Folder | None = Field(
        None, description="JSON file of the service account that the channel `fcm` uses"
    )
    devices_port: Port = Field(8004, description="port of `devices serve`")
    admin_token: SecretStr | None = Field(None, description="bearer token that `devices serve` asks for")
    fee_warning_grace: Duration = Field(
        timedelta(), description="how long before a fee starts a warning is not worth sending any more"
    )
    remind_before: Duration = Field(
        timedelta(), description="how long before a fee starts the driver is warned once more; 0: not at all"
    )
    templates_dir: Folder | None = Field(
        None, description="folder with words to drivers of your own, `<locale>/<name>.txt`, in the place of ours"
    )
    default_locale: Locale = Field("en", description="language of a driver whose devices do not say it")
    default_time_zone: TimeZone = Field(
        "Europe/Berlin", description="time zone of a driver whose devices do not say it"
    )

    @model_validator(mode="after")
    def _check_reminder(self) -> Self:
        if self.remind_before and self.remind_before <= self.fee_warning_grace:
            raise SettingsError("REMIND_BEFORE must be longer than FEE_WARNING_GRACE, or no reminder is ever sent.")
        return self
