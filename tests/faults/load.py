"""A sender of signed events and CDRs that records which of them were acknowledged with a 200."""

import hashlib
import http.client
import itertools
import json
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from ingest.http.app import PATHS
from ingest.wire.envelope import Kind
from ingest.wire.signature import SIGNATURE_HEADER, sign

KEY = b"a key for breaking things"
EVENTS = ("SESSION_STARTED", "SESSION_FEE_INCURRING", "SESSION_STOPPED", "SESSION_COMPLETE")
FIRST_AT = datetime(2026, 1, 1, tzinfo=UTC)
#: Seconds until a sender turns to another node: one that is suspended answers nothing.
TIMEOUT_S = 5.0
#: One item of so many is sent a second time.
DUPLICATE_EVERY = 9


class Item(NamedTuple):
    """An event or a CDR to be sent."""

    kind: Kind
    body: bytes

    @property
    def id(self) -> str:
        """Return the id that its delivery must have."""
        return delivery_id(self.kind, self.body)

    @property
    def session_id(self) -> str:
        document = json.loads(self.body)
        return str(document.get("payload", document)["sessionId"])


class Connect(Protocol):
    """Returns a connection to a port, which its first request opens."""

    def __call__(self, port: int, timeout_s: float) -> http.client.HTTPConnection: ...


def connect_loopback(port: int, timeout_s: float) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)


class Load:
    """Sends distinct items while it is running, some of them twice, and retries none; as Plugsurfing does."""

    def __init__(self, *ports: int, rate: float, connections: int = 4, connect: Connect = connect_loopback) -> None:
        self._connect = connect
        self._ports = itertools.cycle(ports)
        self._pause = connections / rate
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._running, self._is_closing = threading.Event(), threading.Event()
        self._acknowledged: set[str] = set()
        self._forgotten = 0
        #: The session of each item that was sent.
        self.sent: dict[str, str] = {}
        self.wrong_ids: list[str] = []
        """Items that were answered with the id of another delivery."""
        self.unanswered = 0
        self.refused = 0
        self._busy = 0
        self._threads = [threading.Thread(target=self._send_items, daemon=True) for _ in range(connections)]
        for thread in self._threads:
            thread.start()

    def acknowledged(self) -> set[str]:
        """Return the ids of the items that were acknowledged so far."""
        with self._lock:
            return set(self._acknowledged)

    def count(self) -> int:
        """Return how many items were acknowledged so far."""
        return len(self._acknowledged) + self._forgotten

    def forget(self, ids: set[str]) -> None:
        """Forget items that were audited, for a load that goes on for hours."""
        with self._lock:
            self._forgotten += len(self._acknowledged & ids)
            self._acknowledged -= ids
            for each in ids:
                self.sent.pop(each, None)

    def pending(self) -> dict[str, str]:
        """Return the items that were sent and not forgotten, with their sessions."""
        with self._lock:
            return dict(self.sent)

    def start(self) -> None:
        self._running.set()

    def pause(self) -> None:
        """Stop sending, and wait until no request is in flight."""
        self._running.clear()
        while self._busy:
            time.sleep(0.01)

    def end(self) -> None:
        self._is_closing.set()
        self._running.set()
        for thread in self._threads:
            thread.join()

    def send(self, item: Item, port: int, connection: http.client.HTTPConnection | None = None) -> int | None:
        """Send an item once and return its status, or None if there was no answer."""
        connection = connection or self._connect(port, TIMEOUT_S)
        with self._lock:
            self.sent[item.id] = item.session_id
        headers = {SIGNATURE_HEADER: sign(item.body, KEY), "Content-Type": "application/json"}
        try:
            connection.request("POST", PATHS[item.kind], item.body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self.unanswered += 1
            connection.close()
            return None
        if response.status != http.client.OK:
            self.refused += 1
            return response.status
        with self._lock:
            self._acknowledged.add(item.id)
            if json.loads(content)["id"] != item.id:
                self.wrong_ids.append(item.id)
        return response.status

    def _send_items(self) -> None:
        connections: dict[int, http.client.HTTPConnection] = {}
        chance = random.Random()
        while not self._is_closing.is_set():
            self._running.wait()
            with self._lock:
                self._busy += 1
                number, port = next(self._numbers), next(self._ports)
            try:
                if self._running.is_set() and not self._is_closing.is_set():
                    sent = item(number)
                    connection = connections.setdefault(port, self._connect(port, TIMEOUT_S))
                    for _ in range(2 if number % DUPLICATE_EVERY == 0 else 1):
                        self.send(sent, port, connection)
            finally:
                with self._lock:
                    self._busy -= 1
            time.sleep(self._pause * chance.uniform(0.5, 1.5))


def item(number: int) -> Item:
    """Return the item of a number: of five in a row four are events of a past session, the fifth is its CDR."""
    session, step = divmod(number, len(EVENTS) + 1)
    at = FIRST_AT + timedelta(seconds=number)
    payload = {"userId": f"driver-{session % 7}", "sessionId": f"s{session}"}
    if step == len(EVENTS):
        cost = {"total": amount(number), "currency": "EUR"}
        return Item(Kind.CDRS, json.dumps({"requestId": f"r{number}", **payload, "cost": cost}).encode())
    payload["timestamp"] = at.isoformat()
    if EVENTS[step] == "SESSION_FEE_INCURRING":
        payload |= {"feeType": "BLOCKING", "feeWillApplyFrom": (at + timedelta(minutes=5)).isoformat()}
    return Item(Kind.EVENTS, json.dumps({"event": EVENTS[step], "payload": payload}).encode())


def misbehaving_event(kind: str, number: int) -> Item:
    """Return an event at which the handler `misbehave` does so in the given way."""
    payload = {"userId": "driver-0", "sessionId": f"{kind}-{number}", "timestamp": FIRST_AT.isoformat()}
    return Item(Kind.EVENTS, json.dumps({"event": "SESSION_STOP_FAILED", "payload": payload}).encode())


def amount(number: int) -> str:
    """Return the cost of a CDR: all differ, and none is a binary fraction."""
    return f"{number}.{number % 90 + 10:02d}1"


def delivery_id(kind: Kind, body: bytes) -> str:
    """Return the id of a delivery, computed without the code under test."""
    return hashlib.sha256(kind.encode() + b"\0" + body).hexdigest()[:32]
