"""The types of settings, each parsed from its text in the environment."""

import os
import re
from collections.abc import Callable
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import SplitResult, parse_qs, urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from ingest.wire.authorization.response_templates import ResponseTemplate
from ingest.wire.client_address import MAPPED_BITS, Network
from ingest.wire.field_paths import FieldPath, Pointer, parse_field_path, pointers
from ingest.wire.redaction import RedactionRule

T = TypeVar("T")

# Neither the value nor a parser's own message: parsers quote what they take for a port, which is often a password.
INVALID_URL = "is not a URL that can be read: write / ? # @ in a password as %2F %3F %23 %40"
INVALID_SOCKET = "needs the whole path of a socket after unix://, as in unix:///run/redis.sock"
MAX_PORT = 65535


def setting(default: T, description: str) -> T:
    """Return the field of a setting. Those with rules of their own are pydantic's `Field`."""
    return Field(default, description=description)


def pointer_setting(place: str, defaults: str) -> tuple[Pointer, ...]:
    """Return the field of a setting of JSON pointers to a place, with its defaults by comma."""
    return setting(pointers(*defaults.split(",")), f"JSON pointers to {place}")


def split_commas(value: object) -> object:
    """Split a text at its commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def split_commas_as(make: Callable[[str], object]) -> Callable[[object], object]:
    """Split a text at its commas and parse each part with `make`; other values pass unchanged."""

    def parse(value: object) -> object:
        parts = split_commas(value)
        if not isinstance(parts, tuple | list):
            return parts
        return tuple(make(part) if isinstance(part, str) else part for part in parts)

    return parse


def read_networks(value: object) -> tuple[Network, ...]:
    """Parse addresses and networks separated by commas. Raise ValueError if one is neither, or if there are none."""
    parts = split_commas(value)
    if not isinstance(parts, tuple):
        raise ValueError("must be text")  # noqa: TRY004 - pydantic makes a sentence of this one only
    if value and not parts:
        raise ValueError("is set, but empty")
    try:
        return tuple(_unmapped(ip_network(part)) for part in parts)
    except ValueError:
        sample = "192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
        raise ValueError(f"must be addresses and networks by comma, as in {sample}") from None


def _unmapped(network: Network) -> Network:
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - MAPPED_BITS))


def _template(value: object) -> object:
    return ResponseTemplate(value) if isinstance(value, str) else value


def _folder(value: object) -> object:
    return Path(value).expanduser().absolute() if isinstance(value, str | Path) else value


def _no_file(path: Path) -> Path:
    if any(os.path.isfile(each) for each in (path, *path.parents)):  # noqa: PTH113 - this one never raises
        raise ValueError("is, or is in, a file and not a folder")
    return path


def _redis_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://", "redis+sentinel://")):
        raise ValueError("must start with redis://, rediss://, unix:// or redis+sentinel://")
    if url.startswith("unix://") and not re.match(r"unix://([^/]*@)?/[^?#\s]", url):
        raise ValueError(INVALID_SOCKET)
    try:
        parts = urlsplit(url)
        for number in parse_qs(parts.query).get("db", ()):
            int(number)
        if parts.scheme == "redis+sentinel":
            _check_sentinels(parts)
        elif parts.scheme != "unix":
            _check_host(parts)
    except ValueError:
        raise ValueError(INVALID_URL) from None
    return url


def _database_url(url: str) -> str:
    url = re.sub(r"\A(postgres|postgresql)://", "postgresql+psycopg://", url)  # as hosting platforms write it
    if not url.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise ValueError("must start with sqlite:///, postgresql:// or postgresql+psycopg://")
    if url.startswith("postgresql"):
        try:
            _check_postgresql(url)
        except ValueError:
            raise ValueError(INVALID_URL) from None
    return url


def _check_postgresql(url: str) -> None:
    # SQLAlchemy ends a password at its first @.
    without_user = urlsplit(re.sub(r"\A([^:]+://)[^:/]*(:[^@]*)?@", r"\1", url))
    if "@" in without_user.netloc:
        raise ValueError
    _check_host(without_user)


def _check_sentinels(parts: SplitResult) -> None:
    before, at, after = parts.netloc.partition("@")
    for host in (after if at else before).split(","):
        name, colon, port = host.partition(":")
        if not name or "@" in name or (colon and not 0 < int(port) <= MAX_PORT):
            raise ValueError
    _check_no_stray_at(parts)
    service, *database = parts.path.removeprefix("/").split("/")
    if not (service or parse_qs(parts.query).get("service")):
        raise ValueError
    int(database[0] if database else 0)


def _check_host(parts: SplitResult) -> None:
    _ = parts.port  # raises ValueError unless it is a port
    _check_no_stray_at(parts)


def _check_no_stray_at(parts: SplitResult) -> None:
    """Raise ValueError if there is an @ after the host: the password ended early and the rest is taken for a host."""
    if "@" in f"{parts.path}{parts.fragment}{parts.query.partition('=')[0]}":
        raise ValueError


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
    except (KeyError, OSError, ValueError):  # a wrong name may be a folder, too long, or outside of the database
        raise ValueError("must be a name of the IANA time zone database, as in Europe/Berlin") from None


PositiveInt = Annotated[int, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=MAX_PORT)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_commas)]
ChannelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
Channels = Annotated[tuple[ChannelName, ...], NoDecode, BeforeValidator(split_commas), Field(min_length=1)]
Folder = Annotated[Path, BeforeValidator(_folder)]
DataFolder = Annotated[Folder, AfterValidator(_no_file)]
QueueNamespace = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,60}$")]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Locale = Annotated[str, AfterValidator(_locale)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(read_networks)]
Pointers = Annotated[tuple[Pointer, ...], NoDecode, BeforeValidator(split_commas_as(Pointer))]
FieldPaths = Annotated[tuple[FieldPath, ...], NoDecode, BeforeValidator(split_commas_as(parse_field_path))]
RedactionRules = Annotated[tuple[RedactionRule, ...], NoDecode, BeforeValidator(split_commas_as(RedactionRule.parse))]
TemplateSetting = Annotated[ResponseTemplate, NoDecode, BeforeValidator(_template)]
