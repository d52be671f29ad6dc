"""URL and authentication headers of the services that we call."""

import base64
import re
from functools import cache
from importlib.metadata import version
from urllib.parse import urlsplit

import httpx
import structlog

from ingest.config.secret_reload import ReloadableSecrets, Texts
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.drive.drive_requests import Request, Service

DEFAULT_HEADERS = {
    "accept": "application/json",
    "user-agent": f"plugsurfing-webhooks/{version('plugsurfing-webhooks')}",
}

HEADER_SAFE = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")

log = structlog.get_logger()

# The TLS context of all clients: the machine's certificates are read once.
ssl_context = cache(httpx.create_ssl_context)


class ServiceEndpoint:
    """Address and credentials of one service. Raises SettingsError if a setting for it is missing or wrong."""

    def __init__(self, settings: Settings, service: Service) -> None:
        self._service = service
        url, secret = {
            Service.DRIVE: ("drive_api_url", "drive_api_key"),
            Service.ROAM: ("roam_ocpi_url", "roam_ocpi_token"),
        }[service]
        self._url = _checked_url(url.upper(), getattr(settings, url))
        self._secret = ReloadableSecrets(settings, [secret], lambda texts: _header_value(secret, texts), polled=False)

    def url(self, request: Request) -> str:
        """Return the absolute URL of a request."""
        return self._url + request.path

    def headers(self, request: Request) -> dict[str, str]:
        """Return the headers of a request, with the current key."""
        content_type = {} if request.body is None else {"content-type": "application/json"}
        if changed := self._secret.refresh():
            log.info("keys.reread", settings=changed)
        secret = self._secret.now
        if self._service is Service.DRIVE:
            return DEFAULT_HEADERS | content_type | {"x-api-key": secret}
        token = base64.b64encode(secret.encode()).decode()  # OCPI 2.2.1, 4.1.2
        return DEFAULT_HEADERS | content_type | {"authorization": f"Token {token}"}


def _header_value(name: str, texts: Texts) -> str:
    secret = texts[name]
    text = secret.get_secret_value().strip() if secret is not None else ""
    if not text:
        raise SettingsError(f"{name.upper()} is not set.")
    if not HEADER_SAFE.fullmatch(text):
        raise SettingsError(f"{name.upper()} contains characters that no header can carry.")
    return text


def _checked_url(setting: str, text: str) -> str:
    try:
        url = urlsplit(text)
        httpx.URL(text)
        _ = url.port  # raises ValueError if it is not a number
    except (ValueError, httpx.InvalidURL):  # both repeat the URL
        raise SettingsError(f"{setting} is not a valid URL.") from None
    if url.query or url.fragment or not url.hostname:
        raise SettingsError(f"{setting} must be a URL with a host and without a query: paths are appended to it.")
    return text.rstrip("/")
