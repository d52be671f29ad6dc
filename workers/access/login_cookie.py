"""Signed cookies: of a login, and of a page that may show what is masked."""

import hmac
import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.responses import Response

from ingest.config.settings import Settings
from workers.access.dashboard_users import DashboardUser

LOGIN_COOKIE = "webhooks_login"
REVEAL_COOKIE = "webhooks_reveal"
REVEAL_FOR = timedelta(minutes=10)
MAX_ENDED = 10_000


class LoginCookies:
    """Issues and reads the cookies. Without DASHBOARD_SESSION_KEY they end when the process does."""

    def __init__(self, settings: Settings, *, now: Callable[[], float] = time.time) -> None:
        key = settings.dashboard_session_key
        self._key = key.get_secret_value().encode() if key is not None else secrets.token_bytes(32)
        self._lifetime = settings.dashboard_login_for
        self._logins = URLSafeTimedSerializer(self._key, salt=LOGIN_COOKIE)
        self._reveals = URLSafeTimedSerializer(self._key, salt=REVEAL_COOKIE)
        self._ended: dict[str, float] = {}
        self._now = now

    def issue(self, response: Response, user: DashboardUser, *, secure: bool) -> None:
        """Log in: set the cookie of a user."""
        value = self._logins.dumps([user.name, self._fingerprint(user), secrets.token_urlsafe(16)])
        _set(response, LOGIN_COOKIE, str(value), self._lifetime, secure=secure)

    def read(self, value: str, find: Callable[[str], DashboardUser | None]) -> tuple[DashboardUser, str] | None:
        """Return the user of a cookie and the id of the login.

        None if it is forged, too old or logged out, or if that user is gone or has another secret or role now.
        """
        try:
            name, fingerprint, login_id = self._logins.loads(value, max_age=int(self._lifetime.total_seconds()))
        except (BadData, ValueError, TypeError):
            return None
        user = find(name)
        if user is None or login_id in self._ended or not hmac.compare_digest(fingerprint, self._fingerprint(user)):
            return None
        return user, login_id

    def end(self, response: Response, login_id: str, *, secure: bool) -> None:
        """Log out: the cookie is deleted, and a copy of it is not accepted by this process any more."""
        now = self._now()
        self._ended = {each: until for each, until in self._ended.items() if until > now}
        while len(self._ended) >= MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[login_id] = now + self._lifetime.total_seconds()
        for name in (LOGIN_COOKIE, REVEAL_COOKIE):
            _set(response, name, "", timedelta(), secure=secure)

    def csrf_token(self, login_id: str) -> str:
        """Return the token that belongs to a login."""
        return hmac.new(self._key, f"csrf {login_id}".encode(), sha256).hexdigest()

    def reveal(self, response: Response, name: str, page: str, *, secure: bool) -> None:
        """Set the cookie with which one page shows what is masked, for REVEAL_FOR."""
        _set(response, REVEAL_COOKIE, str(self._reveals.dumps([name, page])), REVEAL_FOR, secure=secure)

    def is_revealed(self, value: str, name: str, page: str) -> bool:
        """Return whether the cookie lets that person see what is masked on that page."""
        try:
            revealed = self._reveals.loads(value, max_age=int(REVEAL_FOR.total_seconds()))
        except BadData:
            return False
        return bool(revealed == [name, page])

    def _fingerprint(self, user: DashboardUser) -> str:
        text = b"\0".join((user.name.encode(), user.role.encode(), user.digest))
        return hmac.new(self._key, text, sha256).hexdigest()


def _set(response: Response, name: str, value: str, lifetime: timedelta, *, secure: bool) -> None:
    # Lax and not Strict: a link to the console in an alert is followed from elsewhere, and must find the login.
    seconds = int(lifetime.total_seconds())
    response.set_cookie(name, value, max_age=seconds, httponly=True, secure=secure, samesite="lax")
