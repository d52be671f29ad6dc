"""The settings of a process, read from its environment and checked before anything starts."""

import os
import re
from pathlib import Path
from typing import Any, Self

from pydantic import ModelWrapValidatorHandler, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings

from ingest.config.describe import SettingRow, describe
from ingest.config.env_source import EnvFileSettings, EnvFileSource
from ingest.config.secrets import SIGNING_KEYS, authorization_values, read_secret, signing_keys, trim
from ingest.config.sections.authorization import AuthorizationSettings, PolicySettings
from ingest.config.sections.cdrs import CdrSettings
from ingest.config.sections.dashboard import DashboardSettings
from ingest.config.sections.drive import DriveSettings, ReconcileSettings
from ingest.config.sections.logging import LoggingSettings
from ingest.config.sections.notifications import AlertSettings, DeviceSettings, NotificationSettings
from ingest.config.sections.privacy import RedactionSettings, RetentionSettings, require_redact_key
from ingest.config.sections.processing import ProcessingSettings, StoreSettings
from ingest.config.sections.server import MetricsSettings, ServerSettings
from ingest.config.sections.telemetry import TelemetrySettings
from ingest.config.types import setting
from ingest.errors import SettingsError
from ingest.wire.redaction import Redaction


class SecretFileSettings(EnvFileSettings):
    """Every process: files that hold secrets; those of keys and credentials are re-read while it runs."""

    plugsurfing_hmac_current_file: Path | None = setting(None, "file with `PLUGSURFING_HMAC_CURRENT`")
    plugsurfing_hmac_next_file: Path | None = setting(None, "file with `PLUGSURFING_HMAC_NEXT`")
    plugsurfing_authorization_file: Path | None = setting(None, "file with `PLUGSURFING_AUTHORIZATION`")
    redis_url_file: Path | None = setting(None, "file with `REDIS_URL`")
    database_url_file: Path | None = setting(None, "file with `DATABASE_URL`")
    dashboard_password_file: Path | None = setting(None, "file with `DASHBOARD_PASSWORD`")
    dashboard_users_file: Path | None = setting(None, "file with `DASHBOARD_USERS`")
    dashboard_session_key_file: Path | None = setting(None, "file with `DASHBOARD_SESSION_KEY`")
    push_http_key_file: Path | None = setting(None, "file with `PUSH_HTTP_KEY`")
    admin_token_file: Path | None = setting(None, "file with `ADMIN_TOKEN`")
    authorize_credentials_file: Path | None = setting(None, "file with `AUTHORIZE_CREDENTIALS`")
    drive_api_key_file: Path | None = setting(None, "file with `DRIVE_API_KEY`")
    roam_ocpi_token_file: Path | None = setting(None, "file with `ROAM_OCPI_TOKEN`")
    redact_key_file: Path | None = setting(None, "file with `REDACT_KEY`")
    alert_urls_file: Path | None = setting(None, "file with `ALERT_URLS`")
    otel_exporter_otlp_headers_file: Path | None = setting(None, "file with `OTEL_EXPORTER_OTLP_HEADERS`")
    sentry_dsn_file: Path | None = setting(None, "file with `SENTRY_DSN`")


SECRETS = tuple(name.removesuffix("_file") for name in SecretFileSettings.model_fields)
# All that `serve` reads: a wrong setting of another process must not keep it from receiving events.
SERVE_SECTIONS = (
    ServerSettings,
    RedactionSettings,
    ProcessingSettings,
    CdrSettings,
    StoreSettings,
    LoggingSettings,
    TelemetrySettings,
)
# All that the dashboard reads: it runs plugins again, and verifies again what is in quarantine.
DASHBOARD_SECTIONS = (*SERVE_SECTIONS, DashboardSettings, AuthorizationSettings)
LOWER_CASE = ("log_format", "log_level", "plugsurfing_hmac_encoding", "authorize_key_bytes", "authorize_without_facts")
CASE = dict.fromkeys(LOWER_CASE, str.lower) | {"authorize_on_failure": str.upper}
# A Service or a container named `dashboard` sets DASHBOARD_PORT=tcp://10.0.0.1:80 in the processes beside it:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
SERVICE_LINK = re.compile(r"\b(tcp|udp|sctp)://", re.IGNORECASE)


class Settings(  # the last section comes first: pydantic collects the fields of the bases from the last one on
    SecretFileSettings,
    TelemetrySettings,
    MetricsSettings,
    DashboardSettings,
    PolicySettings,
    AuthorizationSettings,
    DriveSettings,
    AlertSettings,
    RetentionSettings,
    ReconcileSettings,
    CdrSettings,
    DeviceSettings,
    NotificationSettings,
    ProcessingSettings,
    RedactionSettings,
    ServerSettings,
    LoggingSettings,
    StoreSettings,
):
    """All settings of all processes. Made by `load_settings`."""

    model_config = EnvFileSettings.model_config  # said again: of the bases, the sections come last

    _remarks: tuple[str, ...] = PrivateAttr(())

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence for each setting that is not used as it is written, for the log and for `check`."""
        return self._remarks

    @model_validator(mode="wrap")
    @classmethod
    def _normalize(cls, given: dict[str, Any], validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Read the files of secrets, and remove what surely nobody means.

        An empty value counts as unset, except for a signing key.
        """
        ports = {name: os.environ.get(name.upper(), "") for name in cls.model_fields if name.endswith("port")}
        links = [name for name, value in ports.items() if SERVICE_LINK.search(value)]
        remarks = [f"{name.upper()} is a service link of Kubernetes or Docker, and ignored." for name in links]
        in_file = EnvFileSource(cls)() if links else {}
        replaced = {name: in_file.get(name, "") for name in links if given.get(name) == ports[name]}
        values = {name: value for name, value in (given | replaced).items() if value != "" or name in SIGNING_KEYS}
        for name in SECRETS:
            file = values.get(f"{name}_file")
            if file is not None:
                if values.get(name) is not None:
                    raise SettingsError(f"{name.upper()} and {name.upper()}_FILE are both set.")
                values[name] = read_secret(name, Path(file))
        for name, text in values.items():
            if isinstance(text, str) and (name in SECRETS or name.endswith("_url")):
                values[name] = trim(name, text)
                if values[name] != text:
                    remarks.append(f"{name.upper()} begins or ends with invisible characters, which are ignored.")
            elif isinstance(text, str) and name in CASE:
                values[name] = re.sub(r"\Awarn\Z", "warning", CASE[name](text.strip()))
        settings = validate(values)
        settings._remarks = tuple(remarks)  # noqa: SLF001 - its own, in a class method
        return settings

    @model_validator(mode="after")
    def _check_secrets(self) -> Self:
        _, following = signing_keys(
            self.plugsurfing_hmac_current,
            self.plugsurfing_hmac_next,
            self.plugsurfing_hmac_encoding,
            next_is_file=self.plugsurfing_hmac_next_file is not None,
        )
        if following is None:  # its file may be blank; only this validator may change a frozen model
            object.__setattr__(self, "plugsurfing_hmac_next", None)
        authorization_values(self.plugsurfing_authorization)
        authorization_values(self.authorize_credentials, "authorize_credentials")
        return self

    def require_signing(self) -> None:
        """Raise SettingsError unless a signing key or an authorization value authenticates events and CDRs."""
        if self.plugsurfing_hmac_required:
            if self.plugsurfing_hmac_current is None and self.plugsurfing_hmac_next is None:
                raise SettingsError("PLUGSURFING_HMAC_CURRENT is not set: without a key no request can be verified.")
        elif self.plugsurfing_authorization is None:
            raise SettingsError("PLUGSURFING_HMAC_REQUIRED is false, which needs PLUGSURFING_AUTHORIZATION.")

    def require_credentials(self) -> None:
        """Raise SettingsError unless there are credentials that authenticate authorization requests."""
        if self.authorize_credentials is None:
            raise SettingsError("AUTHORIZE_CREDENTIALS is not set: without it anybody could ask which keys may charge.")

    @property
    def redaction(self) -> Redaction | None:
        """What is redacted of each body before it is kept; None if there are no rules."""
        return self.redaction_with(self.redact_key)

    def redaction_with(self, key: SecretStr | None) -> Redaction | None:
        """Return what is redacted with another REDACT_KEY. Raise SettingsError if a rule needs one, and it is empty."""
        require_redact_key(self.redact, key)
        return Redaction(self.redact, key.get_secret_value().encode() if key else b"") if self.redact else None

    def require_redis(self) -> str:
        """Return the URL of the queues. Raise SettingsError if it is not set."""
        if self.redis_url is None:
            raise SettingsError("REDIS_URL is not set: the queues are in Redis.")
        return self.redis_url

    def describe_all(self) -> list[SettingRow]:
        """Describe every setting with its default and its effective value, in the order of the reference."""
        return [
            describe(name, field.default, getattr(self, name), field.description)
            for name, field in type(self).model_fields.items()
        ]


def load_settings(*sections: type[BaseSettings], **overrides: Any) -> Settings:
    """Read the settings of this process from overrides, the environment, files and `.env`, in this order.

    With `sections`, only theirs are read and all others have their defaults.
    Raise SettingsError, one sentence that names the setting and never its value.
    """
    unknown = overrides.keys() - Settings.model_fields.keys()
    if unknown:
        raise TypeError(f"There is no setting {', '.join(sorted(unknown))}.")
    read = {name for section in sections or (Settings,) for name in section.model_fields}
    others = {
        name: field.default for name, field in Settings.model_fields.items() if name.removesuffix("_file") not in read
    }
    try:
        return Settings(**others | overrides)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        setting, problem = str(first["loc"][0]).upper(), first["msg"]
        own = problem.removeprefix("Value error, ")
        sentence = f"{setting} {own}." if own != problem else f"{setting} is refused: {problem}."
    except (OSError, UnicodeDecodeError) as error:
        sentence = f"The file .env cannot be read ({type(error).__name__})."
    raise SettingsError(sentence)  # outside of `except`: the cause knows the values
