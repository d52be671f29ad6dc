"""The users of the dashboard, of DASHBOARD_PASSWORD and DASHBOARD_USERS; there is no account database."""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import structlog

from ingest.config.secret_reload import ReloadableSecrets, Texts
from ingest.config.secrets import authorization_values
from ingest.config.sections.dashboard import DashboardRole
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.net import is_loopback

DEFAULT_NAME = "webhooks"
NAMES = ("dashboard_password", "dashboard_users")
FIELDS_OF_USER = 3
SHORTEST_SECRET = 12
REREAD_EVERY = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DashboardUser:
    """A person or a program with a secret. The digest of the secret stands for it in a cookie, too."""

    name: str
    role: DashboardRole
    digest: bytes


class DashboardUsers:
    """The current users. Raise SettingsError if the dashboard would be open to other machines without any."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        default_name = settings.dashboard_username or DEFAULT_NAME
        self._users = ReloadableSecrets(settings, NAMES, lambda texts: _parse(texts, default_name), polled=False)
        self._reread_at = monotonic() + REREAD_EVERY
        if settings.dashboard_password is None and settings.dashboard_username is not None:
            raise SettingsError("DASHBOARD_USERNAME is set without DASHBOARD_PASSWORD.")
        if settings.dashboard_user_header is not None and not settings.forwarded_by:
            raise SettingsError("DASHBOARD_USER_HEADER needs FORWARDED_BY: only your proxy may set it.")
        self.are_required = bool(self._users.now) or settings.dashboard_user_header is not None
        if not self.are_required and not is_loopback(settings.host):
            raise SettingsError(
                "Neither DASHBOARD_PASSWORD nor DASHBOARD_USERS is set, and HOST is reachable from other machines."
            )

    def find(self, name: str) -> DashboardUser | None:
        """Return the user of that name."""
        return next((user for user in self._users.now if user.name == name), None)

    def verify(self, name: str | None, secret: str) -> DashboardUser | None:
        """Return the user with this name and secret, or with this secret alone where no name is given."""
        digest = sha256(secret.encode("utf-8", "surrogatepass")).digest()
        # All are compared, so that the time shows neither which names exist nor where the secret is in the list.
        matches = [user for user in self._users.now if hmac.compare_digest(user.digest, digest)]
        return next((user for user in matches if name in {None, user.name}), None)

    def refresh(self) -> None:
        """Read the files again, once a second at most: a user that is removed is logged out."""
        now = self._monotonic()
        if now < self._reread_at:
            return
        self._reread_at = now + REREAD_EVERY
        changed = self._users.refresh()
        if changed:
            log.info("keys.reread", settings=changed)


def _parse(texts: Texts, default_name: str) -> tuple[DashboardUser, ...]:
    """Parse one user a line, `name role secret`, after the one of the password."""
    password, users = (texts[name] for name in NAMES)
    found = []
    if password is not None:
        text = password.get_secret_value()
        if not text.strip():
            raise SettingsError("DASHBOARD_PASSWORD is set, but empty.")
        found.append(DashboardUser(default_name, DashboardRole.ADMIN, sha256(text.encode()).digest()))
    for number, line in enumerate(authorization_values(users, "dashboard_users"), start=1):
        parts = line.decode().split(maxsplit=2)
        if len(parts) != FIELDS_OF_USER or parts[1] not in set(DashboardRole):
            raise SettingsError(
                f"DASHBOARD_USERS, line {number}, must be: name role secret; a role is look, act or admin."
            )
        if len(parts[2]) < SHORTEST_SECRET:
            raise SettingsError(f"DASHBOARD_USERS, line {number}: a secret has at least {SHORTEST_SECRET} characters.")
        found.append(DashboardUser(parts[0], DashboardRole(parts[1]), sha256(parts[2].encode()).digest()))
    names = [user.name for user in found]
    if len(set(names)) < len(names) or len({user.digest for user in found}) < len(found):
        raise SettingsError("DASHBOARD_USERS names somebody twice, or two have the same secret.")
    return tuple(found)
