"""What the environment tells a process, checked before anything starts."""

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ingest.described import Described, describe
from ingest.errors import SettingsError
from ingest.signature import KeyEncoding, decode_key
from ingest.spans import Span, SpanOrZero
from ingest.spellings import (
    ChannelName,
    Count,
    DatabaseUrl,
    Folder,
    HttpUrl,
    Locale,
    Names,
    Port,
    RedisUrl,
    TimeZone,
    items,
)

KEYS = ("plugsurfing_hmac_current", "plugsurfing_hmac_next")
SECRETS = (
    *KEYS,
    "plugsurfing_authorization",
    "redis_url",
    "database_url",
    "dashboard_password",
    "push_http_key",
    "admin_token",
)


class LogFormat(StrEnum):
    """How log lines look."""

    CONSOLE = "console"
    """For people."""
    JSON = "json"
    """One object a line."""


class LogLevel(StrEnum):
    """From which level on log lines are written."""

    DEBUG = "debug"
    """Everything."""
    INFO = "info"
    """What happens."""
    WARNING = "warning"
    """What somebody should look at."""
    ERROR = "error"
    """What failed."""


Channels = Annotated[tuple[ChannelName, ...], NoDecode, BeforeValidator(items), Field(min_length=1)]


class Settings(BaseSettings):
    """All settings of all processes. Made by `load_settings`."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    plugsurfing_hmac_current: SecretStr | None = Field(None, description="signing key in use")
    plugsurfing_hmac_next: SecretStr | None = Field(None, description="signing key that a rotation moves to")
    plugsurfing_hmac_encoding: KeyEncoding = Field(
        KeyEncoding.UTF8, description="how the keys are written: `utf8`, `base64` or `hex`"
    )
    plugsurfing_hmac_required: bool = Field(
        default=True, description="`false` lets unsigned requests in and needs `PLUGSURFING_AUTHORIZATION`"
    )
    plugsurfing_authorization: SecretStr | None = Field(
        None, description="value expected in `Authorization`, beside the signature; several on a line each"
    )
    host: str = Field("127.0.0.1", description="address that every server listens on")
    port: Port = Field(8000, description="port of `serve`")
    dashboard_port: Port = Field(8002, description="port of `dashboard`")
    dashboard_username: str | None = Field(None, description="who may see the dashboard, with a password")
    dashboard_password: SecretStr | None = Field(None, description="password of the dashboard")
    data_dir: Folder = Field(Path("var"), description="folder of the inbox and the embedded stores")
    redis_url: RedisUrl | None = Field(
        None,
        repr=False,
        description="the queues: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service/db`",
    )
    database_url: DatabaseUrl = Field(
        default_factory=lambda fields: f"sqlite:///{fields['data_dir']}/ledger.db",
        repr=False,
        description="the ledger: `sqlite:///` or `postgresql+psycopg://`",
    )
    max_body_bytes: Count = Field(1_048_576, description="longest body that is taken")
    body_timeout: Span = Field(timedelta(seconds=5), description="how long a body may take to arrive")
    waiting_bytes: Count = Field(
        33_554_432, description="most that may wait for the disk; what comes beyond is answered 503"
    )
    disk_reserve: int = Field(
        16_777_216,
        ge=0,
        description="bytes of the inbox's disk that are left to the relay; where no more are free the answer is 503",
    )
    clock_skew: Span = Field(timedelta(minutes=5), description="clocks that differ by more are reported")
    duplicates_remembered: Span = Field(timedelta(days=8), description="how long the door knows a repeat")
    quarantine_count: Count = Field(1000, description="most requests in quarantine; the oldest go")
    quarantine_bytes: Count = Field(16_777_216, description="most bytes in quarantine; the oldest go")
    quarantine_age: Span = Field(timedelta(days=30), description="longest stay in quarantine")
    batch_deliveries: Count = Field(500, description="most deliveries in one RQ job")
    batch_bytes: Count = Field(4_194_304, description="most bytes of bodies in one RQ job, unless one alone has more")
    hold_back: SpanOrZero = Field(timedelta(seconds=2), description="how long deliveries wait for a busy queue")
    poison_deaths: Count = Field(3, description="workers that a delivery alone may kill before it is a dead letter")
    handler_modules: Names = Field((), description="further modules with handlers, by comma")
    handler_timeout: Span = Field(timedelta(seconds=30), description="how long a handler may take")
    handler_concurrency: Count = Field(20, description="async handlers of one job at the same time")
    retry_attempts: Count = Field(12, description="attempts at a run before it is a dead letter")
    retry_first: Span = Field(timedelta(seconds=2), description="wait before the second attempt; it doubles")
    retry_longest: Span = Field(timedelta(hours=1), description="longest wait between two attempts")
    finished_jobs_kept: Span = Field(timedelta(minutes=10), description="how long RQ shows finished jobs")
    failed_jobs_kept: Span = Field(timedelta(days=7), description="how long RQ shows failed jobs")
    push: Channels = Field(
        ("log",), description="channels to drivers, by comma: `log`, `http`, `fcm`, and those of plugins"
    )
    push_timeout: Span = Field(timedelta(seconds=10), description="how long a provider may take to answer")
    push_concurrency: Count = Field(20, description="pushes on their way at once, on each channel")
    push_http_url: HttpUrl | None = Field(None, description="where the channel `http` sends to")
    push_http_key: SecretStr | None = Field(None, description="key that the channel `http` signs with")
    push_fcm_credentials: Folder | None = Field(
        None, description="JSON file of the service account that the channel `fcm` uses"
    )
    devices_port: Port = Field(8004, description="port of `devices serve`")
    admin_token: SecretStr | None = Field(None, description="bearer token that `devices serve` asks for")
    fee_warning_grace: SpanOrZero = Field(
        timedelta(), description="how long before a fee starts a warning is not worth sending any more"
    )
    remind_before: SpanOrZero = Field(
        timedelta(), description="how long before a fee starts the driver is warned once more; 0: not at all"
    )
    templates_dir: Folder | None = Field(
        None, description="folder with words to drivers of your own, `<locale>/<name>.txt`, in the place of ours"
    )
    default_locale: Locale = Field("en", description="language of a driver whose devices do not say it")
    default_time_zone: TimeZone = Field(
        "Europe/Berlin", description="time zone of a driver whose devices do not say it"
    )
    log_format: LogFormat | None = Field(None, description="`console` or `json`")
    log_level: LogLevel = Field(LogLevel.INFO, description="`debug`, `info`, `warning` or `error`")

    plugsurfing_hmac_current_file: Path | None = Field(None, description="file with that key")
    plugsurfing_hmac_next_file: Path | None = Field(None, description="file with that key")
    plugsurfing_authorization_file: Path | None = Field(None, description="file with that value")
    redis_url_file: Path | None = Field(None, description="file with that URL")
    database_url_file: Path | None = Field(None, description="file with that URL")
    dashboard_password_file: Path | None = Field(None, description="file with that password")
    push_http_key_file: Path | None = Field(None, description="file with that key")
    admin_token_file: Path | None = Field(None, description="file with that token")

    @model_validator(mode="before")
    @classmethod
    def _with_files(cls, given: dict[str, Any]) -> dict[str, Any]:
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
        return self

    def require_signing(self) -> None:
        """Raise SettingsError unless there is something that proves a request is Plugsurfing's."""
        if self.plugsurfing_hmac_required:
            if self.plugsurfing_hmac_current is None and self.plugsurfing_hmac_next is None:
                raise SettingsError("PLUGSURFING_HMAC_CURRENT is not set: without a key no request can be verified.")
        elif self.plugsurfing_authorization is None:
            raise SettingsError("PLUGSURFING_HMAC_REQUIRED is false, which needs PLUGSURFING_AUTHORIZATION.")

    def require_redis(self) -> str:
        """Return the URL of the queues. Raise SettingsError if there is none."""
        if self.redis_url is None:
            raise SettingsError("REDIS_URL is not set: the queues are in Redis.")
        return self.redis_url

    def described(self) -> list[Described]:
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


def authorization_values(secret: SecretStr | None) -> tuple[bytes, ...]:
    """Split the values of the authorization header. Raise SettingsError if it is set and holds none."""
    if secret is None:
        return ()
    try:
        values = tuple(line.strip().encode() for line in secret.get_secret_value().splitlines() if line.strip())
    except UnicodeEncodeError:
        raise SettingsError("PLUGSURFING_AUTHORIZATION is not utf8.") from None
    if not values:
        raise SettingsError("PLUGSURFING_AUTHORIZATION is set, but empty.")
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
