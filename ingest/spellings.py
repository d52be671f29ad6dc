"""How the values of settings are spelt in the environment."""

import re
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode


def items(value: object) -> object:
    """Part what is written with commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _folder(value: object) -> object:
    return Path(value).expanduser().absolute() if isinstance(value, str | Path) else value


def _redis_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://", "redis+sentinel://")):
        raise ValueError("must start with redis://, rediss://, unix:// or redis+sentinel://")
    return url


def _database_url(url: str) -> str:
    url = re.sub(r"\A(postgres|postgresql)://", "postgresql+psycopg://", url)  # as hosting platforms write it
    if not url.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise ValueError("must start with sqlite:///, postgresql:// or postgresql+psycopg://")
    return url


def _http_url(url: str) -> str:
    if not re.match(r"https?://[^/\s]", url):
        raise ValueError("must start with https:// or http://")
    return url


def _locale(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*", text):
        raise ValueError("must be a language, with or without a region, as in de or nl-BE")
    return text


def _time_zone(name: str) -> str:
    try:
        return ZoneInfo(name).key
    except (KeyError, OSError, ValueError):  # a name that is none may be a folder, too long, or outside of the database
        raise ValueError("must be a name of the IANA time zone database, as in Europe/Berlin") from None


Count = Annotated[int, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(items)]
ChannelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
Folder = Annotated[Path, BeforeValidator(_folder)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Locale = Annotated[str, AfterValidator(_locale)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
