"""A sender of signed events and CDRs that remembers what it was promised: everything that was answered 200."""

import hashlib
import http.client
import itertools
import json
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ingest.http.app import PATHS
from ingest.wire.envelope import Kind
from ingest.wire.signature import SIGNATURE_HEADER, sign

KEY = b"a key for breaking things"
EVENTS = ("SESSION_STARTED", "SESSION_FEE_INCURRING", "SESSION_STOPPED", "SESSION_COMPLETE")
BEGAN_AT = datetime(2026, 1, 1, tzinfo=UTC)
#: Of so many one is sent a second time.
REPEATED = 9


class Item(NamedTuple):
    """What is sent."""

    kind: Kind
    body: bytes

    @property
    def id(self) -> str:
        """The id that its delivery must have."""
        return delivery_id(self.kind, self.body)


class Load:
    """Sends while it is running: distinct items, now and then one twice, each once whatever the answer; as they do."""

    def __init__(self, *ports: int, rate: float, connections: int = 4) -> None:
        self._ports = itertools.cycle(ports)
        self._pause = connections / rate
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._running, self._ending = threading.Event(), threading.Event()
        self._acknowledged: set[str] = set()
        self.sent: set[str] = set()
        self.mistaken: list[str] = []
        """Whose answers told of another delivery."""
        self.unanswered = 0
        self.refused = 0
        self._busy = 0
        self._threads = [threading.Thread(target=self._send_on, daemon=True) for _ in range(connections)]
        for thread in self._threads:
            thread.start()

    def acknowledged(self) -> set[str]:
        """The ids of what was answered 200 so far."""
        with self._lock:
            return set(self._acknowledged)

    def count(self) -> int:
        """How many those are."""
        return len(self._acknowledged)

    def start(self) -> None:
        self._running.set()

    def pause(self) -> None:
        """Stop, and come back when nothing is on its way any more."""
        self._running.clear()
        while self._busy:
            time.sleep(0.01)

    def end(self) -> None:
        self._ending.set()
        self._running.set()
        for thread in self._threads:
            thread.join()

    def send(self, item: Item, port: int, connection: http.client.HTTPConnection | None = None) -> int | None:
        """Send it once and give its status; None if there was no answer."""
        connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        with self._lock:
            self.sent.add(item.id)
        headers = {SIGNATURE_HEADER: sign(item.body, KEY), "Content-Type": "application/json"}
        try:
            connection.request("POST", PATHS[item.kind], item.body, headers)
            answer = connection.getresponse()
            told = answer.read()
        except (OSError, http.client.HTTPException):
            self.unanswered += 1
            connection.close()
            return None
        if answer.status != http.client.OK:
            self.refused += 1
            return answer.status
        with self._lock:
            self._acknowledged.add(item.id)
            if json.loads(told)["id"] != item.id:
                self.mistaken.append(item.id)
        return answer.status

    def _send_on(self) -> None:
        connections: dict[int, http.client.HTTPConnection] = {}
        chance = random.Random()
        while not self._ending.is_set():
            self._running.wait()
            with self._lock:
                self._busy += 1
                number, port = next(self._numbers), next(self._ports)
            try:
                if self._running.is_set() and not self._ending.is_set():
                    sent = item(number)
                    connection = connections.setdefault(port, http.client.HTTPConnection("127.0.0.1", port, timeout=15))
                    for _ in range(2 if number % REPEATED == 0 else 1):
                        self.send(sent, port, connection)
            finally:
                with self._lock:
                    self._busy -= 1
            time.sleep(self._pause * chance.uniform(0.5, 1.5))


def item(number: int) -> Item:
    """Make one: of five in a row four are a session, the times of which have long passed, and the fifth is its CDR."""
    session, step = divmod(number, len(EVENTS) + 1)
    at = BEGAN_AT + timedelta(seconds=number)
    payload = {"userId": f"driver-{session % 7}", "sessionId": f"s{session}"}
    if step == len(EVENTS):
        cost = {"total": amount(number), "currency": "EUR"}
        return Item(Kind.CDRS, json.dumps({"requestId": f"r{number}", **payload, "cost": cost}).encode())
    payload["timestamp"] = at.isoformat()
    if EVENTS[step] == "SESSION_FEE_INCURRING":
        payload |= {"feeType": "BLOCKING", "feeWillApplyFrom": (at + timedelta(minutes=5)).isoformat()}
    return Item(Kind.EVENTS, json.dumps({"event": EVENTS[step], "payload": payload}).encode())


def misbehaviour(deed: str, number: int) -> Item:
    """Make an event at which the handler `misbehave` does a deed."""
    payload = {"userId": "driver-0", "sessionId": f"{deed}-{number}", "timestamp": BEGAN_AT.isoformat()}
    return Item(Kind.EVENTS, json.dumps({"event": "SESSION_STOP_FAILED", "payload": payload}).encode())


def amount(number: int) -> str:
    """What a CDR costs: each something else, and none of it a binary fraction."""
    return f"{number}.{number % 90 + 10:02d}1"


def delivery_id(kind: Kind, body: bytes) -> str:
    """Reckon the id of a delivery without the code that gives it."""
    return hashlib.sha256(kind.encode() + b"\0" + body).hexdigest()[:32]
