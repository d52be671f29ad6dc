"""Sends authorization requests from a process of its own, `python -m tests.bench.authorize_load SPEC`.

Requests are sent at their times, whether the ones before are answered or not (an open loop), each about a key of a list
in turn and each distinct. Spec and result are JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass

import uvloop

HEAD_END = b"\r\n\r\n"
PATIENCE_S = 30.0
FULL_BODY = 1000


@dataclass(frozen=True)
class AuthorizeLoad:
    """What to send where, `rate` a second; `slow` connections send a byte a second to each of `slow_ports`."""

    port: int
    credentials: str
    rate: float = 0.0
    seconds: float = 1.0
    keys: int = 1000
    slow: int = 0
    slow_ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class AuthorizeLoadResult:
    """How often each decision or error came, and the latency of each response in milliseconds."""

    decisions: dict[str, int]
    took_ms: list[float]


def key_of(number: int) -> str:
    """Return the charging key of a number as the Drive API writes it."""
    return f"{number:014x}"


async def send(spec: AuthorizeLoad) -> AuthorizeLoadResult:
    """Send a load and wait for the last response."""
    slow = [
        asyncio.create_task(_send_slowly(port, spec.credentials, begins_after=number / spec.slow))
        for port in spec.slow_ports
        for number in range(spec.slow)
    ]
    decisions: Counter[str] = Counter()
    took: list[float] = []
    idle: list[KeepAliveClient] = []
    pending: set[asyncio.Task[None]] = set()

    async def send_one(number: int) -> None:
        client = idle.pop() if idle else await KeepAliveClient.to(spec.port)
        began = time.perf_counter()
        try:
            decision = await asyncio.wait_for(client.authorize(spec.credentials, number, spec.keys), PATIENCE_S)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            decisions[type(error).__name__] += 1
            return
        took.append(1000 * (time.perf_counter() - began))
        decisions[decision] += 1
        idle.append(client)

    began = time.perf_counter()
    for number in range(round(spec.rate * spec.seconds)):
        await asyncio.sleep(max(0.0, began + number / spec.rate - time.perf_counter()))
        task = asyncio.create_task(send_one(number))
        pending.add(task)
        task.add_done_callback(pending.discard)
    if not spec.rate:
        await asyncio.sleep(spec.seconds)
    if pending:
        await asyncio.wait(pending)
    for task in slow:
        task.cancel()
    return AuthorizeLoadResult(dict(decisions), took)


@dataclass(frozen=True)
class KeepAliveClient:
    """A kept-alive connection, for one request at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, port: int) -> "KeepAliveClient":
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def authorize(self, credentials: str, number: int, keys: int) -> str:
        """Send a request about one key; return the decision, or the status of a response without one."""
        body = json.dumps({"keyIdentifier": key_of(number % keys), "referenceId": f"r{number}"}).encode()
        self.writer.write(
            b"POST /plugsurfing/authorizations HTTP/1.1\r\nHost: charger\r\nAuthorization: %s\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (credentials.encode(), len(body), body)
        )
        head = await self.reader.readuntil(HEAD_END)
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:")
        response = json.loads(await self.reader.readexactly(length))
        return str(response.get("allowed", head[9:12].decode()))


async def _send_slowly(port: int, credentials: str, *, begins_after: float) -> None:
    """Send a byte a second on one connection, and open another one whenever it is closed."""
    await asyncio.sleep(begins_after)  # so that they do not all send in the same moment
    head = f"POST /plugsurfing/authorizations HTTP/1.1\r\nHost: x\r\nAuthorization: {credentials}\r\n"
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{head}Content-Length: {FULL_BODY}\r\n\r\n".encode())
            while not writer.is_closing():
                await asyncio.sleep(1)
                writer.write(b" ")
                await writer.drain()
        except OSError:
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(send(AuthorizeLoad(**json.loads(sys.argv[1])))))))  # noqa: T201 - the result
