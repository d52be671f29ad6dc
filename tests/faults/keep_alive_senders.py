"""Senders that reuse their connections, as proxies do, and record every request without a 200."""

import asyncio
import json
import random
import ssl
import threading
import uuid
from dataclasses import dataclass, field
from typing import Self

from ingest.wire.envelope import Kind
from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.faults.load import delivery_id

KEY = b"the-current-key"
PATH = "/plugsurfing/events"
# Longer than any restart takes: beside busy processes the interpreter alone takes 20 s to start.
TIMEOUT_S = 120.0


@dataclass
class KeepAliveSenders:
    """Concurrent senders with a connection each; between two events a sender pauses up to `longest_rest` seconds."""

    port: int
    senders: int = 12
    longest_rest: float = 0.03
    tls: ssl.SSLContext | None = None
    """How to connect to a proxy at `localhost`; plain without it."""
    kept: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    connections: int = 0
    seconds: list[float] = field(default_factory=list)
    """The response time of each request."""

    def __enter__(self) -> Self:
        self._ends = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._send_events(random.Random(number)) for number in range(self.senders)))

    async def _send_events(self, chance: random.Random) -> None:
        streams = None
        while not self._ends.is_set():
            try:
                # As a connection pool does: a connection that was closed while it was idle is not reused.
                if streams is None or streams[0].at_eof():
                    host = "127.0.0.1" if self.tls is None else "localhost"
                    streams = await asyncio.open_connection(host, self.port, ssl=self.tls)
                    self.connections += 1
                if not await asyncio.wait_for(self._post(*streams), TIMEOUT_S):
                    streams[1].close()
                    streams = None
            except (OSError, EOFError, TimeoutError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                streams = None
                await asyncio.sleep(0.05)
            await asyncio.sleep(chance.uniform(0, self.longest_rest))
        if streams is not None:
            streams[1].close()

    async def _post(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send an event, and return whether the connection may be reused."""
        body = event()
        began_at = asyncio.get_running_loop().time()
        writer.write(request(body))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        self.seconds.append(asyncio.get_running_loop().time() - began_at)
        if not head.startswith(b"http/1.1 200 "):
            self.failures.append(head.partition(b"\r\n")[0].decode())
        elif json.loads(answer)["id"] == delivery_id(Kind.EVENTS, body):
            self.kept.add(delivery_id(Kind.EVENTS, body))
        else:
            self.failures.append("200 for another delivery")
        return b"connection: close" not in head


def event() -> bytes:
    """Return a new event."""
    payload = {"sessionId": uuid.uuid4().hex[:11], "timestamp": "2025-06-12T10:56:51Z", "userId": "user1"}
    return json.dumps({"event": "SESSION_STARTED", "payload": payload}).encode()


def request(body: bytes, *headers: str, path: str = PATH, key: bytes = KEY) -> bytes:
    """Return a signed request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, f"{SIGNATURE_HEADER}: {sign(body, key)}", "", ""]).encode("latin-1") + body
