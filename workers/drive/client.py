"""Client of the Drive API: HTTP with a rate limit, retries and deadlines around pure requests and responses."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, partial
from hashlib import sha256
from typing import Any, Self, TypeVar, Unpack

import httpx
import redis
import stamina

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.drive import drive_requests
from workers.drive.drive_errors import (
    DriveError,
    DriveUnavailable,
    InvalidResponse,
    RateBudgetExhausted,
    Throttled,
    TruncatedResponse,
)
from workers.drive.drive_requests import HistoryFilters, Request, Service
from workers.drive.drive_responses import ResponseParser, maybe_applied_note, parse_response
from workers.drive.models import ChargingKey, DriveSession, Fleet, Invitation, Location, RoamToken
from workers.drive.pagination import ListPage, paginate, parse_page
from workers.drive.rate_limit import RateLimiter
from workers.drive.services import ServiceEndpoint, ssl_context

T = TypeVar("T")

MAX_RESPONSE_BYTES = 32 * 1024 * 1024
"""A page of 500 keys has some 100,000."""


class DriveClient:
    """Calls the Drive API and the token module of Roam OCPI. Safe for threads.

    Each method raises DriveError, or SettingsError if a setting that it needs is missing. Reads are retried, writes are
    sent once. A list fetches a page when it is needed. `deadline` bounds one response or page with all its attempts and
    all waiting for the rate limit; by default it is DRIVE_PATIENCE.
    """

    def __init__(  # noqa: PLR0913  a clock for tests beside what it needs
        self,
        settings: Settings,
        connection: redis.Redis | None,
        *,
        deadline: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._deadline = (deadline or settings.drive_patience).total_seconds()
        self._rate_limiter = RateLimiter(
            connection,
            per_minute=settings.drive_per_minute,
            per_day=settings.drive_per_day,
            account=_account(settings),
            now=now,
        )
        self._monotonic, self._sleep = monotonic, sleep
        self._parser = ResponseParser(settings)
        self._endpoint = cache(partial(ServiceEndpoint, settings))
        self._http = httpx.Client(verify=ssl_context(), follow_redirects=False)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def session(self, user_id: str, session_id: str) -> DriveSession:
        """Return one session, finished or not."""
        parse = partial(self._parser.session, user_id=user_id, session_id=session_id)
        return self._call(drive_requests.session(user_id, session_id), parse)

    def history(self, user_id: str, **filters: Unpack[HistoryFilters]) -> Iterator[DriveSession]:
        """Yield a user's sessions."""
        request = partial(drive_requests.history, user_id, **filters)
        return self._list(request, "sessions", partial(self._parser.session, user_id=user_id))

    def charging_keys(self, fleet_id: str | None = None, *, page_size: int = 500) -> Iterator[ChargingKey]:
        """Yield the charging keys of a fleet, or of the whole organization."""
        request = partial(drive_requests.charging_keys, fleet_id, page_size=page_size)
        return self._list(request, "keys", partial(self._parser.charging_key, fleet_id=fleet_id))

    def create_fleet(self, fleet_id: str, name: str | None = None) -> Fleet:
        """Create a fleet; its id can never be changed."""
        return self._call(drive_requests.create_fleet(fleet_id, name), partial(_fleet, fleet_id, name))

    def rename_fleet(self, fleet_id: str, name: str) -> Fleet:
        """Rename a fleet."""
        request = drive_requests.rename_fleet(fleet_id, name, self._settings.drive_rename_body)
        return self._call(request, partial(_fleet, fleet_id, name))

    def invitation(self, fleet_id: str) -> Invitation:
        """Return the active invitation codes of a fleet."""
        return self._call(
            drive_requests.invitation(fleet_id), lambda document: Invitation(fleet_id=fleet_id, document=document)
        )

    def balance(self, user_id: str) -> Decimal:
        """Return a user's prepaid balance, exactly. Raise SettingsError without DRIVE_BALANCE_PATH."""
        path = self._settings.drive_balance_path
        if path is None:
            raise SettingsError("DRIVE_BALANCE_PATH is not set; the path of the prepaid balance is not public.")
        return self._call(drive_requests.balance(user_id, path), self._parser.balance)

    def location(self, location_id: str) -> Location:
        """Return a location."""
        request = drive_requests.location(location_id, self._settings.drive_location_path)
        return self._call(request, partial(self._parser.location, location_id=location_id))

    def push_token(self, token: RoamToken) -> None:
        """Create or update a token in Roam OCPI. Raise SettingsError without ROAM_OCPI_URL and ROAM_OCPI_TOKEN."""
        if self._settings.roam_ocpi_url is None or self._settings.roam_ocpi_token is None:
            raise SettingsError("ROAM_OCPI_URL and ROAM_OCPI_TOKEN are needed to push tokens to Roam OCPI.")
        self._call(drive_requests.push_token(token, datetime.now(UTC)), lambda _: None)

    def _list(self, request: Callable[..., Request], name: str, parse_item: Callable[[Any], T]) -> Iterator[T]:
        def fetch(cursor: str | None, received: int) -> ListPage[T]:
            parse = partial(parse_page, name=name, parse_item=parse_item, received=received)
            return self._call(request(cursor=cursor), parse)

        return paginate(fetch)

    def _call(self, request: Request, parse: Callable[[Any], T]) -> T:
        until = self._monotonic() + self._deadline
        endpoint = self._endpoint(request.service)
        attempts = self._settings.drive_attempts if request.is_read else 1
        for attempt in stamina.retry_context(
            is_retryable, attempts, self._deadline, wait_initial=0.2, wait_max=5, wait_jitter=0.3
        ):
            with attempt:
                if request.service is Service.DRIVE:
                    self._wait_for_rate_limit(until)
                try:
                    return parse(parse_response(request, *self._send(endpoint, request, until)))
                except Throttled:
                    if request.service is Service.DRIVE:
                        self._rate_limiter.block_this_minute()
                    raise
        raise AssertionError("stamina returns or raises")

    def _wait_for_rate_limit(self, until: float) -> None:
        while seconds := self._rate_limiter.acquire().total_seconds():
            if self._monotonic() + seconds > until:
                raise RateBudgetExhausted(
                    "DRIVE_PER_MINUTE or DRIVE_PER_DAY is used up, or the Drive API has throttled us in this minute."
                )
            self._sleep(seconds)

    def _send(self, endpoint: ServiceEndpoint, request: Request, until: float) -> tuple[int, bytes]:
        left = until - self._monotonic()
        if left <= 0:
            raise DriveUnavailable(f"There was no time left to {request.description}.")
        seconds = min(self._settings.drive_timeout.total_seconds(), left)
        read_until = time.monotonic() + seconds  # httpx bounds each chunk of a response, not the whole
        headers = endpoint.headers(request)
        try:
            with self._http.stream(
                request.method, endpoint.url(request), content=request.body, headers=headers, timeout=seconds
            ) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_RESPONSE_BYTES:
                        who = request.service.value
                        raise InvalidResponse(f"{who} responded with more than {MAX_RESPONSE_BYTES} bytes.")
                    if time.monotonic() > read_until:
                        raise transport_error(request, TimeoutError())
                return response.status_code, bytes(body)
        except httpx.RequestError as error:
            raise transport_error(request, error) from None


def is_retryable(error: Exception) -> bool | float:
    """Return whether another attempt makes sense; 0.0 after a 429: the rate limiter then waits for the next minute."""
    match error:
        case RateBudgetExhausted():
            return False
        case Throttled():
            return 0.0
        case _:
            return isinstance(error, DriveUnavailable | TruncatedResponse)


def transport_error(request: Request, error: Exception) -> DriveError:
    """Return the error for a missing response; httpx's own message may repeat the URL, and so ids."""
    who, note = request.service.value, maybe_applied_note(request)
    match error:
        case httpx.TimeoutException() | TimeoutError():
            return DriveUnavailable(f"{who} did not respond in time to the request to {request.description}.{note}")
        case httpx.DecodingError():
            return InvalidResponse(f"{who} responded in an invalid encoding to the request to {request.description}.")
        case _:
            kind = type(error).__name__
            return DriveUnavailable(f"{who} cannot be reached to {request.description} ({kind}).{note}")


def _account(settings: Settings) -> str:
    """Return a name of the key of the API that does not disclose it; a new key may have a limit of its own."""
    key = settings.drive_api_key
    return "" if key is None else sha256(key.get_secret_value().encode()).hexdigest()[:8]


def _fleet(fleet_id: str, name: str | None, document: Any) -> Fleet:
    return Fleet(fleet_id=fleet_id, name=name, document=document if isinstance(document, dict) else {})
