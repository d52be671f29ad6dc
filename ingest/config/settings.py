"""What the environment tells a process, checked before anything starts."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict

from ingest.config.describe import SettingRow, describe
from ingest.config.sections.alerts import AlertSettings
from ingest.config.sections.authorization import AuthorizationSettings
from ingest.config.sections.cdrs import CdrSettings
from ingest.config.sections.dashboard import DashboardSettings
from ingest.config.sections.drive import DriveSettings
from ingest.config.sections.limits import LimitSettings
from ingest.config.sections.logging import LoggingSettings
from ingest.config.sections.notifications import NotificationSettings
from ingest.config.sections.policies import PolicySettings
from ingest.config.sections.processing import ProcessingSettings
from ingest.config.sections.reconcile import ReconcileSettings
from ingest.config.sections.server import ServerSettings
from ingest.config.sections.stores import StoreSettings
from ingest.errors import SettingsError
from ingest.wire.signature import KeyEncoding, decode_key

KEYS = ("plugsurfing_hmac_current", "plugsurfing_hmac_next")
SECRETS = (
    *KEYS,
    "plugsurfing_authorization",
    "redis_url",
    "database_url",
    "dashboard_password",
    "push_http_key",
    "admin_token",
    "authorize_credentials",
    "drive_api_key",
    "roam_ocpi_token",
    "alert_urls",
)


class Settings(  # the last chapter comes first: pydantic takes the fields of the bases from their end on
    LoggingSettings,
    AlertSettings,
    PolicySettings,
    AuthorizationSettings,
    ReconcileSettings,
    DriveSettings,
    CdrSettings,
    NotificationSettings,
    ProcessingSettings,
    LimitSettings,
    StoreSettings,
    DashboardSettings,
    ServerSettings,
):
    """All settings of all processes. Made by `load_settings`."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    plugsurfing_hmac_current_file: Path | None = Field(None, description="file with that key")
    plugsurfing_hmac_next_file: Path | None = Field(None, description="file with that key")
    plugsurfing_authorization_file: Path | None = Field(None, description="file with that value")
    redis_url_file: Path | None = Field(None, description="file with that URL")
    database_url_file: Path | None = Field(None, description="file with that URL")
    dashboard_password_file: Path | None = Field(None, description="file with that password")
    push_http_key_file: Path | None = Field(None, description="file with that key")
    admin_token_file: Path | None = Field(None, description="file with that token")
    authorize_credentials_file: Path | None = Field(None, description="file with that value")
    drive_api_key_file: Path | None = Field(None, description="file with that key")
    roam_ocpi_token_file: Path | None = Field(None, description="file with that token")
    alert_urls_file: Path | None = Field(None, description="file with those URLs")

    @model_validator(mode="before")
    @classmethod
    def _resolve_secret_files(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Put what the files hold in place, and take what is empty as not set, except for keys."""
        values = {name: value for name, value in given.items() if value != "" or name in KEYS}
        for name in SECRETS:
            file = values.get(f"{name}_file")
            if file is not None:
                if values.get(name) is not None:
                    raise SettingsError(f"{name.upper()} and {name.upper()}_FILE are both set.")
                values[name] = read_secret(name, Path(file))
        return values

    @model_validator(mode="after")
    def _with_good_keys(self) -> Self:
        _, following = signing_keys(
            self.plugsurfing_hmac_current,
            self.plugsurfing_hmac_next,
            self.plugsurfing_hmac_encoding,
            next_is_file=self.plugsurfing_hmac_next_file is not None,
        )
        if following is None:  # its file may say so; frozen is for everybody else
            object.__setattr__(self, "plugsurfing_hmac_next", None)
        authorization_values(self.plugsurfing_authorization)
        authorization_values(self.authorize_credentials, "authorize_credentials")
        return self

    def require_signing(self) -> None:
        """Raise SettingsError unless there is something that proves a request is Plugsurfing's."""
        if self.plugsurfing_hmac_required:
            if self.plugsurfing_hmac_current is None and self.plugsurfing_hmac_next is None:
                raise SettingsError("PLUGSURFING_HMAC_CURRENT is not set: without a key no request can be verified.")
        elif self.plugsurfing_authorization is None:
            raise SettingsError("PLUGSURFING_HMAC_REQUIRED is false, which needs PLUGSURFING_AUTHORIZATION.")

    def require_credentials(self) -> None:
        """Raise SettingsError unless there is something that proves a question at the charger is Plugsurfing's."""
        if self.authorize_credentials is None:
            raise SettingsError("AUTHORIZE_CREDENTIALS is not set: without it anybody could ask which keys may charge.")

    def require_redis(self) -> str:
        """Return the URL of the queues. Raise SettingsError if there is none."""
        if self.redis_url is None:
            raise SettingsError("REDIS_URL is not set: the queues are in Redis.")
        return self.redis_url

    def describe_all(self) -> list[SettingRow]:
        """Describe every setting with its default and its effective value, in the order of the README."""
        return [
            describe(name, field.default, getattr(self, name), field.description)
            for name, field in type(self).model_fields.items()
        ]


def load_settings(**overrides: Any) -> Settings:
    """Read the settings of this process from overrides, the environment, files and `.env`, in this order.

    Raise SettingsError, one sentence that names the setting and never its value.
    """
    unknown = overrides.keys() - Settings.model_fields.keys()
    if unknown:
        raise TypeError(f"There is no setting {', '.join(sorted(unknown))}.")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        setting, problem = str(first["loc"][0]).upper(), first["msg"]
        own = problem.removeprefix("Value error, ")
        sentence = f"{setting} {own}." if own != problem else f"{setting} is refused: {problem}."
    except (OSError, UnicodeDecodeError) as error:
        sentence = f"The file .env cannot be read ({type(error).__name__})."
    raise SettingsError(sentence)  # outside of `except`: the cause knows the values


def read_secret(name: str, path: Path) -> str:
    """Read the file of a secret, without the newline that editors add. Raise SettingsError if it cannot be read.

    The file of the next key may be gone: that is as if it were empty.
    """
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        if name == KEYS[1] and isinstance(error, FileNotFoundError):
            return ""
        problem = type(error).__name__
    raise SettingsError(f"{name.upper()}_FILE names a file that cannot be read ({problem}).")


def signing_keys(
    current: SecretStr | None, next_: SecretStr | None, encoding: KeyEncoding, *, next_is_file: bool
) -> tuple[bytes | None, bytes | None]:
    """Decode both keys. Raise SettingsError if one is blank or not in its encoding, or if they are equal.

    But beside a good CURRENT the file of NEXT may be blank, or say the same: then there is no next key. This is how a
    rotation ends, as a process that reads its keys from files cannot be told that a setting is gone.
    """
    first = _signing_key(KEYS[0], current, encoding)
    can_be_none = next_is_file and first is not None
    if can_be_none and next_ is not None and not next_.get_secret_value().strip():
        return first, None
    second = _signing_key(KEYS[1], next_, encoding)
    if first is None or first != second:
        return first, second
    if can_be_none:
        return first, None
    raise SettingsError("PLUGSURFING_HMAC_CURRENT and PLUGSURFING_HMAC_NEXT are the same key.")


def authorization_values(secret: SecretStr | None, name: str = "plugsurfing_authorization") -> tuple[bytes, ...]:
    """Split the values of an authorization header. Raise SettingsError if it is set and holds none."""
    if secret is None:
        return ()
    try:
        values = tuple(line.strip().encode() for line in secret.get_secret_value().splitlines() if line.strip())
    except UnicodeEncodeError:
        raise SettingsError(f"{name.upper()} is not utf8.") from None
    if not values:
        raise SettingsError(f"{name.upper()} is set, but empty.")
    return values


def _signing_key(name: str, secret: SecretStr | None, encoding: KeyEncoding) -> bytes | None:
    if secret is None:
        return None
    text = secret.get_secret_value()
    if not text.strip():
        raise SettingsError(f"{name.upper()} is set, but empty.")
    try:
        return decode_key(text, encoding)
    except ValueError:
        raise SettingsError(f"{name.upper()} is not {encoding}, see PLUGSURFING_HMAC_ENCODING.") from None
