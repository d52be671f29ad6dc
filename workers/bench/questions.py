"""Ask at the charger from a process of its own: `python -m workers.bench.questions ORDER` says what it heard.

Questions are asked at their times, whether the ones before are answered or not, each about a key of a list in turn and
each distinct. Order and answer are JSON.
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
    """What to ask where, so many times a second; `slow` connections send a byte a second to each of `slow_ports`."""

    port: int
    credentials: str
    rate: float = 0.0
    seconds: float = 1.0
    keys: int = 1000
    slow: int = 0
    slow_ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class AuthorizeLoadResult:
    """What was answered, how often, and how many milliseconds each took."""

    decisions: dict[str, int]
    took_ms: list[float]


def key_of(number: int) -> str:
    """Spell the number of a key as the Drive API does."""
    return f"{number:014x}"


async def ask(order: AuthorizeLoad) -> AuthorizeLoadResult:
    """Ask what was ordered and wait for the last answer."""
    dribblers = [
        asyncio.create_task(_dribble(port, order.credentials, begins_after=number / order.slow))
        for port in order.slow_ports
        for number in range(order.slow)
    ]
    decisions: Counter[str] = Counter()
    took: list[float] = []
    idle: list[KeepAliveClient] = []
    asking: set[asyncio.Task[None]] = set()

    async def ask_one(number: int) -> None:
        line = idle.pop() if idle else await KeepAliveClient.to(order.port)
        begun = time.perf_counter()
        try:
            decision = await asyncio.wait_for(line.ask(order.credentials, number, order.keys), PATIENCE_S)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            decisions[type(error).__name__] += 1
            return
        took.append(1000 * (time.perf_counter() - begun))
        decisions[decision] += 1
        idle.append(line)

    begun = time.perf_counter()
    for number in range(round(order.rate * order.seconds)):
        await asyncio.sleep(max(0.0, begun + number / order.rate - time.perf_counter()))
        task = asyncio.create_task(ask_one(number))
        asking.add(task)
        task.add_done_callback(asking.discard)
    if not order.rate:
        await asyncio.sleep(order.seconds)
    if asking:
        await asyncio.wait(asking)
    for dribbler in dribblers:
        dribbler.cancel()
    return AuthorizeLoadResult(dict(decisions), took)


@dataclass(frozen=True)
class KeepAliveClient:
    """A kept-alive connection, for one question at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, port: int) -> "KeepAliveClient":
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, credentials: str, number: int, keys: int) -> str:
        """Ask about one key; return the decision, or the status if there is none."""
        body = json.dumps({"keyIdentifier": key_of(number % keys), "referenceId": f"r{number}"}).encode()
        self.writer.write(
            b"POST /plugsurfing/authorizations HTTP/1.1\r\nHost: charger\r\nAuthorization: %s\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (credentials.encode(), len(body), body)
        )
        head = await self.reader.readuntil(HEAD_END)
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:")
        told = json.loads(await self.reader.readexactly(length))
        return str(told.get("allowed", head[9:12].decode()))


async def _dribble(port: int, credentials: str, *, begins_after: float) -> None:
    """Send a byte a second, and begin anew whenever that is not borne any longer."""
    await asyncio.sleep(begins_after)  # they are as many clients, not one that sends 200 bytes a second
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
    print(json.dumps(asdict(uvloop.run(ask(AuthorizeLoad(**json.loads(sys.argv[1])))))))  # noqa: T201 - its answer
