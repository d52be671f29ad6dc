"""A sender of signed events that remembers what it was promised: every id that it got with a 200."""

import hashlib
import http.client
import itertools
import json
import random
import threading
import time
from datetime import UTC, datetime, timedelta

from ingest.signature import SIGNATURE_HEADER, sign

KEY = b"a key for breaking things"
PATH = "/plugsurfing/events"
EVENTS = ("SESSION_STARTED", "SESSION_FEE_INCURRING", "SESSION_STOPPED", "SESSION_COMPLETE")
BEGAN_AT = datetime(2026, 1, 1, tzinfo=UTC)
#: Of so many events one is sent a second time.
REPEATED = 10


class Load:
    """Sends while it is running: distinct events, now and then one twice, each once whatever the answer; as they do."""

    def __init__(self, *ports: int, rate: float, connections: int = 4) -> None:
        self._ports = itertools.cycle(ports)
        self._pause = connections / rate
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._running, self._ending = threading.Event(), threading.Event()
        self._acknowledged: set[str] = set()
        self.sent: set[str] = set()
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

    def go(self) -> None:
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

    def send(self, body: bytes, port: int, connection: http.client.HTTPConnection | None = None) -> int | None:
        """Send one event once and give its status; None if there was no answer."""
        connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        delivery_id = hashlib.sha256(b"events\0" + body).hexdigest()[:32]
        with self._lock:
            self.sent.add(delivery_id)
        try:
            connection.request(
                "POST", PATH, body, {SIGNATURE_HEADER: sign(body, KEY), "Content-Type": "application/json"}
            )
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
            self._acknowledged.add(json.loads(told)["id"])
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
                    body = event(number)
                    connection = connections.setdefault(port, http.client.HTTPConnection("127.0.0.1", port, timeout=15))
                    for _ in range(2 if number % REPEATED == 0 else 1):
                        self.send(body, port, connection)
            finally:
                with self._lock:
                    self._busy -= 1
            time.sleep(self._pause * chance.uniform(0.5, 1.5))


def event(number: int) -> bytes:
    """Make an event: four of them are a session, the times of which have long passed."""
    session, step = divmod(number, len(EVENTS))
    at = BEGAN_AT + timedelta(seconds=number)
    payload = {"userId": f"driver-{session % 7}", "sessionId": f"s{session}", "timestamp": at.isoformat()}
    if EVENTS[step] == "SESSION_FEE_INCURRING":
        payload |= {"feeType": "BLOCKING", "feeWillApplyFrom": (at + timedelta(minutes=5)).isoformat()}
    return json.dumps({"event": EVENTS[step], "payload": payload}).encode()


def misdeed(deed: str, number: int) -> bytes:
    """Make an event at which the handler `misbehave` does a deed."""
    payload = {"userId": "driver-0", "sessionId": f"{deed}-{number}", "timestamp": BEGAN_AT.isoformat()}
    return json.dumps({"event": "SESSION_STOP_FAILED", "payload": payload}).encode()
