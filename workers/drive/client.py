"""Calls the Drive API: the I/O around what the other rooms say."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import Self, TypeVar

import httpx
import redis

from ingest.config.settings import Settings
from workers.drive.models import ALL_STATUSES, ChargingKey, DriveSession, Fleet, Invitation, Location, RoamToken
from workers.drive.operations import DriveOperations, Operation, Paginator
from workers.drive.requests import Request
from workers.drive.retries import LONGEST_ANSWER, RequestPolicy, failure_on_the_way, response_too_large
from workers.drive.services import ServiceEndpoint, ssl_context

T = TypeVar("T")


class DriveClient:
    """Asks the Drive API, from any thread.

    Each method raises DriveError, or SettingsError if a setting for it is missing. What only reads is tried again; what
    changes something is sent once. A list reads a page when it is needed. `deadline` is for one answer, or one page,
    with all attempts and all waiting for the budget; without it DRIVE_PATIENCE is.
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
        self._calls = DriveOperations(settings)
        self._attempts = RequestPolicy(settings, connection, deadline=deadline, now=now, monotonic=monotonic)
        self._sleep = sleep
        self._http = httpx.Client(verify=ssl_context(), follow_redirects=False)

    def __enter__(self) -> Self:
        """Give back itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def session(self, user_id: str, session_id: str) -> DriveSession:
        """Read one session, finished or not."""
        return self._request(self._calls.session(user_id, session_id))

    def history(
        self,
        user_id: str,
        *,
        statuses: Sequence[str] = ALL_STATUSES,
        charging_key_id: str | None = None,
        started_from: datetime | None = None,
        started_until: datetime | None = None,
    ) -> Iterator[DriveSession]:
        """Read a user's sessions, page by page; both times bound their start, inclusive."""
        return self._paginate(
            self._calls.history(
                user_id,
                statuses=statuses,
                charging_key_id=charging_key_id,
                started_from=started_from,
                started_until=started_until,
            )
        )

    def charging_keys(self, fleet_id: str | None = None, *, page_size: int = 500) -> Iterator[ChargingKey]:
        """Read the charging keys of a fleet, or of the whole organization, page by page."""
        return self._paginate(self._calls.charging_keys(fleet_id, page_size=page_size))

    def create_fleet(self, fleet_id: str, name: str | None = None) -> Fleet:
        """Create a fleet; its id can never be changed."""
        return self._request(self._calls.create_fleet(fleet_id, name))

    def rename_fleet(self, fleet_id: str, name: str) -> Fleet:
        """Give a fleet another name."""
        return self._request(self._calls.rename_fleet(fleet_id, name))

    def invitation(self, fleet_id: str) -> Invitation:
        """Read the active invitation codes of a fleet."""
        return self._request(self._calls.invitation(fleet_id))

    def balance(self, user_id: str) -> Decimal:
        """Read a user's prepaid balance, exactly, from where DRIVE_BALANCE_PATH says."""
        return self._request(self._calls.balance(user_id))

    def location(self, location_id: str) -> Location:
        """Read a location."""
        return self._request(self._calls.location(location_id))

    def push_token(self, token: RoamToken) -> None:
        """Tell Roam OCPI of a token."""
        return self._request(self._calls.push_token(token))

    def _paginate(self, pages: Paginator[T]) -> Iterator[T]:
        while (call := pages.next()) is not None:
            yield from pages.accept(self._request(call))

    def _request(self, call: Operation[T]) -> T:
        until, door = self._attempts.until(), self._attempts.door(call.request)
        for attempt in self._attempts.retries(call.request):
            with attempt:
                while seconds := self._attempts.rate_limit_delay(call.request, until):
                    self._sleep(seconds)
                return self._attempts.read(call, *self._send(door, call.request, until))
        raise AssertionError("stamina returns or raises")

    def _send(self, door: ServiceEndpoint, request: Request, until: float) -> tuple[int, bytes]:
        seconds = self._attempts.request_timeout(request, until)
        over_at = time.monotonic() + seconds  # httpx bounds each piece of an answer, not the whole
        try:
            with self._http.stream(
                request.method, door.url(request), content=request.body, headers=door.headers(request), timeout=seconds
            ) as answer:
                body = bytearray()
                for piece in answer.iter_bytes():
                    body += piece
                    if len(body) > LONGEST_ANSWER:
                        raise response_too_large(request)
                    if time.monotonic() > over_at:
                        raise failure_on_the_way(request, TimeoutError())
                return answer.status_code, bytes(body)
        except httpx.RequestError as error:
            raise failure_on_the_way(request, error) from None


class AsyncDriveClient:
    """Asks the Drive API as `DriveClient` does, from one event loop."""

    def __init__(  # noqa: PLR0913  a clock for tests beside what it needs
        self,
        settings: Settings,
        connection: redis.Redis | None,
        *,
        deadline: timedelta | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._calls = DriveOperations(settings)
        self._attempts = RequestPolicy(settings, connection, deadline=deadline, now=now, monotonic=monotonic)
        self._sleep = sleep
        self._http = httpx.AsyncClient(verify=ssl_context(), follow_redirects=False)

    async def __aenter__(self) -> Self:
        """Give back itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def session(self, user_id: str, session_id: str) -> DriveSession:
        """Read one session, finished or not."""
        return await self._request(self._calls.session(user_id, session_id))

    def history(
        self,
        user_id: str,
        *,
        statuses: Sequence[str] = ALL_STATUSES,
        charging_key_id: str | None = None,
        started_from: datetime | None = None,
        started_until: datetime | None = None,
    ) -> AsyncIterator[DriveSession]:
        """Read a user's sessions, page by page; both times bound their start, inclusive."""
        return self._paginate(
            self._calls.history(
                user_id,
                statuses=statuses,
                charging_key_id=charging_key_id,
                started_from=started_from,
                started_until=started_until,
            )
        )

    def charging_keys(self, fleet_id: str | None = None, *, page_size: int = 500) -> AsyncIterator[ChargingKey]:
        """Read the charging keys of a fleet, or of the whole organization, page by page."""
        return self._paginate(self._calls.charging_keys(fleet_id, page_size=page_size))

    async def create_fleet(self, fleet_id: str, name: str | None = None) -> Fleet:
        """Create a fleet; its id can never be changed."""
        return await self._request(self._calls.create_fleet(fleet_id, name))

    async def rename_fleet(self, fleet_id: str, name: str) -> Fleet:
        """Give a fleet another name."""
        return await self._request(self._calls.rename_fleet(fleet_id, name))

    async def invitation(self, fleet_id: str) -> Invitation:
        """Read the active invitation codes of a fleet."""
        return await self._request(self._calls.invitation(fleet_id))

    async def balance(self, user_id: str) -> Decimal:
        """Read a user's prepaid balance, exactly, from where DRIVE_BALANCE_PATH says."""
        return await self._request(self._calls.balance(user_id))

    async def location(self, location_id: str) -> Location:
        """Read a location."""
        return await self._request(self._calls.location(location_id))

    async def push_token(self, token: RoamToken) -> None:
        """Tell Roam OCPI of a token."""
        return await self._request(self._calls.push_token(token))

    async def _paginate(self, pages: Paginator[T]) -> AsyncIterator[T]:
        while (call := pages.next()) is not None:
            for each in pages.accept(await self._request(call)):
                yield each

    async def _request(self, call: Operation[T]) -> T:
        until, door = self._attempts.until(), self._attempts.door(call.request)
        async for attempt in self._attempts.retries(call.request):
            with attempt:
                # The budget asks Redis, and a page is long: both would hold the loop up.
                while seconds := await asyncio.to_thread(self._attempts.rate_limit_delay, call.request, until):
                    await self._sleep(seconds)
                status, body = await self._send(door, call.request, until)
                return await asyncio.to_thread(self._attempts.read, call, status, body)
        raise AssertionError("stamina returns or raises")

    async def _send(self, door: ServiceEndpoint, request: Request, until: float) -> tuple[int, bytes]:
        seconds = self._attempts.request_timeout(request, until)
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.stream(
                    request.method,
                    door.url(request),
                    content=request.body,
                    headers=door.headers(request),
                    timeout=seconds,
                ) as answer,
            ):
                body = bytearray()
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > LONGEST_ANSWER:
                        raise response_too_large(request)
                return answer.status_code, bytes(body)
        except (httpx.RequestError, TimeoutError) as error:
            raise failure_on_the_way(request, error) from None
