"""Check whether the Drive API accepts our key, by one cheap read, and the settings of Roam OCPI."""

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from ipaddress import ip_address
from urllib.parse import urlsplit

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.queue.redis_client import connect_redis
from workers.commands.check.check_result import CheckResult, fail, ok, warn
from workers.commands.output import logs_to_stderr
from workers.drive.client import DriveClient
from workers.drive.drive_errors import DriveError, DriveUnavailable, NotFound, Unauthorized
from workers.drive.drive_requests import MIN_PAGE_SIZE

DEADLINE = timedelta(seconds=10)
PROBE_ID = "webhooks-check"
"""Id of a user and of a session that do not exist."""


def check_drive_api(settings: Settings) -> Iterator[CheckResult]:
    """Yield what was found about the Drive API and Roam OCPI."""
    if not settings.has_drive:
        yield ok("drive", "Off: without DRIVE_API_KEY no session is polled, and no policy has keys or balances.")
    else:
        if _is_unencrypted(settings.drive_api_url):
            yield warn("drive", "DRIVE_API_URL is not https: the key can be read on the network.")
        yield _probe(settings)
    if (settings.roam_ocpi_url is None) != (settings.roam_ocpi_token is None):
        missing = "ROAM_OCPI_URL" if settings.roam_ocpi_url is None else "ROAM_OCPI_TOKEN"
        yield fail("roam", f"{missing} is not set: both are needed to push tokens.")
    elif settings.roam_ocpi_url is not None:
        yield ok("roam", "Tokens can be pushed to Roam OCPI; it was not called.")


def _probe(settings: Settings) -> CheckResult:
    try:
        # The rate limit is counted in Redis, if it is there; another check reports that.
        with (
            logs_to_stderr(settings, "check"),
            connect_redis(settings.redis_url, timeout=2) if settings.redis_url else nullcontext() as connection,
            DriveClient(settings, connection, deadline=DEADLINE) as client,
        ):
            return ok("drive", _check_key(client))
    except DriveUnavailable as error:
        return warn("drive", f"{error} Until it responds, nothing is read from it.")
    except NotFound:
        return fail("drive", "There is no Drive API at DRIVE_API_URL (404).")
    except (DriveError, SettingsError) as error:
        return fail("drive", str(error))


def _check_key(client: DriveClient) -> str:
    try:
        next(client.charging_keys(page_size=MIN_PAGE_SIZE), None)
    except Unauthorized as refused:
        try:
            client.session(PROBE_ID, PROBE_ID)
        except NotFound:
            return "It accepts the key for sessions, but not for charging keys."
        raise refused from None
    return "It accepts the key, and lists charging keys."


def _is_unencrypted(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return False
    try:
        return not ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True
