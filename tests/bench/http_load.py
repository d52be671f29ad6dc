"""Loads one endpoint with signed requests from a process of its own, `python -m tests.bench.http_load SPEC`.

Spec and result are JSON. Every body is distinct. Requests are built before the clock starts and written as they are, so
that the load generator is not the bottleneck, as an HTTP client would be.
"""

import asyncio
import gc
import json
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from ingest.simulator.connection import NO_RESPONSE, KeepAliveConnection
from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.bench.report import p99

EVENTS = ("SESSION_STARTED", "SESSION_STOPPED", "SESSION_COMPLETE")
FIRST_EVENT_AT = datetime(2026, 1, 1, tzinfo=UTC)
MAX_RATE = 30_000
"""Requests a second beyond what any receiver here can answer."""


@dataclass(frozen=True)
class LoadSpec:
    """What to send where: at most `count` requests, for `seconds` after the warm-up, `rate` a second if it is set."""

    url: str
    key: str
    seed: str
    count: int
    seconds: float
    warm_up_s: float = 0.0
    rate: float | None = None
    connections: int = 64
    bodies: str | None = None
    """A file with the bodies to send, one a line; session events if there is none."""


@dataclass(frozen=True)
class LoadResult:
    """The responses to one load after its warm-up: how many, how many of them refused by status, and their latency."""

    seconds: float
    responses: int
    refused: dict[str, int]
    p50_ms: float
    p99_ms: float

    @property
    def kept(self) -> int:
        """Responses with 200."""
        return self.responses - sum(self.refused.values())

    @property
    def rate(self) -> float:
        """Responses with 200 in a second."""
        return self.kept / self.seconds


def bodies(seed: str, count: int) -> Iterator[bytes]:
    """Yield distinct events: sessions of three events each, a second apart."""
    for number in range(count):
        session, step = divmod(number, len(EVENTS))
        at = FIRST_EVENT_AT + timedelta(seconds=number)
        payload = {"userId": f"driver-{session}", "sessionId": f"{seed}-{session}", "timestamp": at.isoformat()}
        yield json.dumps({"event": EVENTS[step], "payload": payload}).encode()


def request(url: str, body: bytes, key: bytes) -> bytes:
    """Return one signed POST as it goes over the wire."""
    parts = urlsplit(url)
    return (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"{SIGNATURE_HEADER}: {sign(body, key)}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Load:
    """The state that all connections share: the requests to come and the responses so far."""

    def __init__(self, spec: LoadSpec) -> None:
        """Build the requests, then start the clock."""
        key = spec.key.encode()
        given = Path(spec.bodies).read_bytes().splitlines() if spec.bodies else bodies(spec.seed, spec.count)
        self._requests = iter([request(spec.url, body, key) for body in given])
        self._due = time.perf_counter()
        self._begin = self._due + spec.warm_up_s
        self._end = self._begin + spec.seconds
        self._interval = 1 / spec.rate if spec.rate else 0.0
        self._took = array("d")
        self._refused: dict[str, int] = {}
        self._last = self._begin

    def next(self) -> tuple[bytes, float] | None:
        """Return the next request and how long to wait before sending it; None when the load is over."""
        now = time.perf_counter()
        if now >= self._end:
            return None
        following = next(self._requests, None)
        if following is None:
            return None
        self._due += self._interval
        return following, (self._due - now if self._interval else 0.0)

    def record(self, status: int, sent: float) -> None:
        """Record one response; in the warm-up only if it is not 200."""
        now = time.perf_counter()
        if status != HTTPStatus.OK:
            self.record_refusal(str(status))
        elif now >= self._begin:
            self._took.append(now - sent)
        self._last = now

    def record_refusal(self, why: str) -> None:
        """Count a response other than 200, or a connection that was closed."""
        self._refused[why] = self._refused.get(why, 0) + 1

    def result(self) -> LoadResult:
        """Return the result so far."""
        took = sorted(self._took)
        refused = sum(self._refused.values())
        return LoadResult(
            seconds=max(self._last - self._begin, 1e-9),
            responses=len(took) + refused,
            refused=self._refused,
            p50_ms=1000 * took[len(took) // 2] if took else 0.0,
            p99_ms=1000 * p99(took),
        )


async def send_on_one_connection(load: Load, url: str) -> None:
    """Send a request, await its response, and send the next one, until the load is over or the peer disconnects."""
    connection = KeepAliveConnection(url)
    while (following := load.next()) is not None:
        if following[1] > 0:
            await asyncio.sleep(following[1])
        sent = time.perf_counter()
        try:
            status, _ = await connection.exchange(following[0])
        except NO_RESPONSE:
            load.record_refusal("connection closed")
            return
        load.record(status, sent)
    connection.close()


async def send(spec: LoadSpec) -> LoadResult:
    """Send a load and wait for the last response."""
    load = Load(spec)
    gc.freeze()
    gc.disable()  # a collection over 100,000 requests would be measured as the receiver's latency
    count = min(spec.connections, spec.count)
    await asyncio.gather(*(send_on_one_connection(load, spec.url) for _ in range(count)))
    return load.result()


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(send(LoadSpec(**json.loads(sys.argv[1])))))))  # noqa: T201 - the result
