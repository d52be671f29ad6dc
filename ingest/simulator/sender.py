"""Send requests as Plugsurfing does, once each, and listen to the answers as Plugsurfing does not."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx

from ingest.simulator.faults import PlannedRequest
from ingest.simulator.requests import Request, RequestSigner, TransferMode

CONNECTIONS = 64
TIMEOUT = timedelta(seconds=30)

# A slow body stays within the five seconds that a receiver has to allow.
SLOW_BODY = timedelta(seconds=2)
SLOW_PIECES = 10


@dataclass(frozen=True)
class Answer:
    """What came back for a request."""

    request: Request
    took: timedelta
    status: int | None = None
    """None: nothing came."""
    problem: str = ""
    """Why nothing came."""
    delivery_id: str | None = None
    duplicate: bool = False

    @property
    def is_right(self) -> bool:
        """Say whether the receiver answered as it should."""
        return self.status in self.request.expected


@dataclass(frozen=True)
class ResponseStats:
    """Many answers, counted."""

    statuses: tuple[tuple[str, int], ...]
    """With how many of each, the most frequent first; `no answer` is one."""
    duplicates: int
    wrong: int
    p50: timedelta
    p99: timedelta


async def send(
    url: str,
    tracks: Sequence[Sequence[PlannedRequest]],
    penmanship: RequestSigner,
    *,
    on_response: Callable[[Answer], None],
    rate: float | None = None,
) -> None:
    """Make all requests, those of a track one after the other, at most `rate` a second; `heard` gets every answer."""
    pace = RateLimiter(rate)
    waiting = iter(tracks)

    # A client each: one pool for all looks through all its connections for every request, at a third of the speed.
    certificates = httpx.create_ssl_context()

    async def one_connection() -> None:
        async with httpx.AsyncClient(base_url=url, verify=certificates, timeout=TIMEOUT.total_seconds()) as client:
            for track in waiting:
                for step in track:
                    await pace.turn()
                    on_response(await post(client, penmanship.request(step, at=datetime.now(UTC))))

    async with asyncio.TaskGroup() as connections:
        for _ in range(min(CONNECTIONS, len(tracks))):
            connections.create_task(one_connection())


async def post(client: httpx.AsyncClient, request: Request) -> Answer:
    """Make one request. Never raises for what the receiver or the network does."""
    began = asyncio.get_running_loop().time()

    def took() -> timedelta:
        return timedelta(seconds=asyncio.get_running_loop().time() - began)

    headers = dict(request.headers)
    if request.manner is TransferMode.SLOW:
        headers["content-length"] = str(len(request.body))
    try:
        answer = await client.post(request.path, content=_content(request), headers=headers)
    except (httpx.TransportError, httpx.DecodingError) as error:
        return Answer(request, took(), problem=str(error) or type(error).__name__)
    try:
        said = answer.json()
    except ValueError:
        said = None
    said = said if isinstance(said, dict) else {}
    return Answer(
        request,
        took(),
        status=answer.status_code,
        delivery_id=said.get("id"),
        duplicate=said.get("duplicate") is True,
    )


def tally(answers: Sequence[Answer]) -> ResponseStats:
    """Count answers; there must be one at least."""
    waits = sorted(answer.took for answer in answers)
    statuses = Counter(str(answer.status or "no answer") for answer in answers)
    return ResponseStats(
        statuses=tuple(statuses.most_common()),
        duplicates=sum(answer.duplicate for answer in answers),
        wrong=sum(not answer.is_right for answer in answers),
        p50=_percentile(waits, 0.50),
        p99=_percentile(waits, 0.99),
    )


class RateLimiter:
    """Gives turns, evenly spaced."""

    def __init__(self, rate: float | None) -> None:
        """Take the turns a second; None: as many as wanted."""
        self._between = 0 if rate is None else 1 / rate
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next turn."""
        if self._between:
            now = asyncio.get_running_loop().time()
            self._next = max(self._next + self._between, now)
            await asyncio.sleep(self._next - now)


def _content(request: Request) -> bytes | AsyncIterator[bytes]:
    return request.body if request.manner is TransferMode.WHOLE else _pieces(request)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    size = math.ceil(len(request.body) / SLOW_PIECES)
    for start in range(0, len(request.body), size):
        if request.manner is TransferMode.SLOW:
            await asyncio.sleep(SLOW_BODY.total_seconds() / SLOW_PIECES)
        yield request.body[start : start + size]


def _percentile(waits: Sequence[timedelta], part: float) -> timedelta:
    return waits[math.ceil(part * len(waits)) - 1]
