"""Send requests over kept-alive connections, at a rate if there is one, and count the responses."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ingest.simulator.connection import NO_RESPONSE, KeepAliveConnection
from ingest.simulator.faults import PlannedRequest
from ingest.simulator.requests import RequestSigner, SignedRequest

CONNECTIONS = 64
TIMEOUT = timedelta(seconds=30)


@dataclass(frozen=True)
class SimulatorResponse:
    """The response to a request, or why there was none."""

    request: SignedRequest
    took: timedelta
    status: int | None = None
    problem: str = ""
    """Why there is no status."""
    delivery_id: str | None = None
    duplicate: bool = False

    @property
    def is_expected(self) -> bool:
        """Return whether the receiver responded as it should."""
        return self.status in self.request.expected


@dataclass(frozen=True)
class ResponseStats:
    """Counts and latencies of many responses."""

    statuses: tuple[tuple[str, int], ...]
    """How many of each, the most frequent first; `no answer` is one."""
    duplicates: int
    wrong: int
    p50: timedelta
    p99: timedelta

    @classmethod
    def of(cls, responses: Sequence[SimulatorResponse]) -> "ResponseStats":
        """Count the responses, of which there must be one at least."""
        latencies = sorted(response.took for response in responses)
        return cls(
            statuses=tuple(Counter(str(response.status or "no answer") for response in responses).most_common()),
            duplicates=sum(response.duplicate for response in responses),
            wrong=sum(not response.is_expected for response in responses),
            p50=_percentile(latencies, 0.50),
            p99=_percentile(latencies, 0.99),
        )


async def send(  # noqa: PLR0913  what a load consists of
    url: str,
    tracks: Iterable[Iterable[PlannedRequest]],
    signer: RequestSigner,
    *,
    on_response: Callable[[SimulatorResponse], None],
    rate: float | None = None,
    connections: int = CONNECTIONS,
) -> None:
    """Send all requests, those of a track one after the other, at most `rate` a second, evenly spaced.

    Tracks may be generated while they are sent, without an end: the load ends with them. Each request is signed when it
    is sent. `on_response` gets every response.
    """
    waiting = iter(tracks)
    interval, due = 0 if rate is None else 1 / rate, 0.0

    async def wait_until_due() -> None:
        nonlocal due
        if interval:
            now = asyncio.get_running_loop().time()
            due = max(due + interval, now)
            await asyncio.sleep(due - now)

    async def send_tracks() -> None:
        connection = KeepAliveConnection(url)
        try:
            for track in waiting:
                for planned in track:
                    await wait_until_due()
                    on_response(await post(connection, signer.request(planned, at=datetime.now(UTC))))
        finally:
            connection.close()

    async with asyncio.TaskGroup() as senders:
        for _ in range(connections):
            senders.create_task(send_tracks())


async def post(connection: KeepAliveConnection, request: SignedRequest) -> SimulatorResponse:
    """Send one request. Never raises for what the receiver or the network does."""
    loop = asyncio.get_running_loop()
    began, status, body, problem = loop.time(), None, b"", ""
    try:
        async with asyncio.timeout(TIMEOUT.total_seconds()):
            status, body = await connection.post(request.path, request.headers, request.body, request.transfer)
    except NO_RESPONSE as error:
        problem = str(error) or type(error).__name__
    took = timedelta(seconds=loop.time() - began)
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    fields = document if isinstance(document, dict) else {}
    return SimulatorResponse(request, took, status, problem, fields.get("id"), fields.get("duplicate") is True)


def _percentile(latencies: Sequence[timedelta], part: float) -> timedelta:
    return latencies[math.ceil(part * len(latencies)) - 1]
