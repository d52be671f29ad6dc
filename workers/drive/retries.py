"""How one call is made, as far as it is the same with and without `await`: deadline, budget, and when to try again."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

import httpx
import redis
import stamina

from ingest.config.settings import Settings
from workers.drive.errors import (
    DriveError,
    DriveUnavailable,
    InvalidResponse,
    RateBudgetExhausted,
    Throttled,
    TruncatedResponse,
)
from workers.drive.operations import Operation
from workers.drive.rate_limit import RateLimiter
from workers.drive.requests import Request, Service
from workers.drive.responses import maybe_applied_note, parse_response
from workers.drive.services import ServiceEndpoint

T = TypeVar("T")

LONGEST_ANSWER = 32 * 1024 * 1024
"""Bytes. A page of 500 keys has some 100,000."""


class Retries(Protocol):
    """What stamina hands out: attempts, to be made in a loop of either kind."""

    def __iter__(self) -> Iterator[AbstractContextManager[None]]:
        """Go through the attempts, sleeping between them."""
        ...

    def __aiter__(self) -> AsyncIterator[AbstractContextManager[None]]:
        """Go through them in an event loop."""
        ...


class RequestPolicy:
    """Everything that a client needs for a call, but for sending it and sleeping. Safe for threads."""

    def __init__(
        self,
        settings: Settings,
        connection: redis.Redis | None,
        *,
        deadline: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._patience = (deadline or settings.drive_patience).total_seconds()
        self._timeout = settings.drive_timeout.total_seconds()
        self._monotonic = monotonic
        self._budget = RateLimiter(
            connection, per_minute=settings.drive_per_minute, per_day=settings.drive_per_day, now=now
        )
        self._doors: dict[Service, ServiceEndpoint] = {}

    def retries(self, request: Request) -> Retries:
        """Begin to count attempts: several at what only reads, one at what changes something."""
        attempts = self._settings.drive_attempts if request.is_read else 1
        return stamina.retry_context(
            is_retryable, attempts, self._patience, wait_initial=0.2, wait_max=5, wait_jitter=0.3
        )

    def until(self) -> float:
        """Say when a call that begins now must be over."""
        return self._monotonic() + self._patience

    def door(self, request: Request) -> ServiceEndpoint:
        """Find the way to a request's service. Raise SettingsError if a setting for it is missing."""
        if request.service not in self._doors:
            self._doors[request.service] = ServiceEndpoint(self._settings, request.service)
        return self._doors[request.service]

    def rate_limit_delay(self, request: Request, until: float) -> float:
        """Take a call out of the budget: no seconds, or so many before asking again. Raise BudgetSpent."""
        if request.service is not Service.DRIVE:
            return 0
        seconds = self._budget.acquire().total_seconds()
        if seconds and self._monotonic() + seconds > until:
            raise RateBudgetExhausted(
                "The calls that we allow ourselves of the Drive API are spent, or it asked for a pause."
            )
        return seconds

    def request_timeout(self, request: Request, until: float) -> float:
        """Say how many seconds one request may take now. Raise DriveUnavailable when time is up."""
        left = until - self._monotonic()
        if left <= 0:
            raise DriveUnavailable(f"There was no time left to {request.description}.")
        return min(self._timeout, left)

    def read(self, call: Operation[T], status: int, body: bytes) -> T:
        """Read an answer; when it says that we ask too often, have nobody ask in this minute."""
        try:
            return call.read(parse_response(call.request, status, body))
        except Throttled:
            if call.request.service is Service.DRIVE:
                self._budget.block_this_minute()
            raise


def is_retryable(error: Exception) -> bool | float:
    """Say whether another attempt makes sense; after 429 at once, as the budget then waits for the next minute."""
    match error:
        case RateBudgetExhausted():
            return False
        case Throttled():
            return 0.0
        case _:
            return isinstance(error, DriveUnavailable | TruncatedResponse)


def failure_on_the_way(request: Request, error: Exception) -> DriveError:
    """Put into words why there is no answer; what httpx says may repeat the URL, which has ids in it."""
    who = request.service.value
    match error:
        case httpx.TimeoutException() | TimeoutError():
            return DriveUnavailable(
                f"{who} did not answer in time when asked to {request.description}.{maybe_applied_note(request)}"
            )
        case httpx.DecodingError():
            return InvalidResponse(
                f"{who} answered in a coding that cannot be read when asked to {request.description}."
            )
        case _:
            kind = type(error).__name__
            return DriveUnavailable(
                f"{who} cannot be reached to {request.description} ({kind}).{maybe_applied_note(request)}"
            )


def response_too_large(request: Request) -> InvalidResponse:
    """Say that an answer was not read to its end."""
    return InvalidResponse(f"{request.service.value} answered with more than {LONGEST_ANSWER} bytes.")
