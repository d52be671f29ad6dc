"""The application on a real socket, with an evaluator whose results a test sets."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from ingest.authorize.authorize_app import create_authorize_app
from ingest.authorize.decisions import DecisionRecord, EvaluatorStatus, PolicyResult
from ingest.authorize.timed_protocol import timed_protocol
from ingest.config.settings import load_settings
from ingest.http import responses
from ingest.wire.authorization.request import AuthorizationRequest

RIGHT = {"Authorization": "a-secret"}


@dataclass
class FakeEvaluator:
    """Returns what `result_of` returns, and records the requests."""

    result_of: Callable[[AuthorizationRequest], PolicyResult] = lambda _request: PolicyResult()
    delay: float = 0.0
    requests: list[AuthorizationRequest] = field(default_factory=list)
    ready: int = 1
    stopped: bool = False

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True

    async def evaluate(self, request: AuthorizationRequest, deadline: float) -> PolicyResult:  # noqa: ARG002 - the signature is the protocol's
        self.requests.append(request)
        await asyncio.sleep(self.delay)
        return self.result_of(request)

    def status(self) -> EvaluatorStatus:
        return EvaluatorStatus(1, self.ready, ("by_key",))


@dataclass
class FakeRecorder:
    """Collects records in a list."""

    records: list[DecisionRecord] = field(default_factory=list)

    def record(self, record: DecisionRecord) -> None:
        self.records.append(record)

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


class RunningApp:
    """A running application, and a client with valid credentials."""

    def __init__(self, serving: Any, evaluator: FakeEvaluator, recorder: FakeRecorder, **settings: Any) -> None:
        self.evaluator, self.recorder = evaluator, recorder
        given = load_settings(**{"authorize_credentials": "a-secret", **settings})
        self.app = create_authorize_app(given, evaluator, recorder)
        self.port = serving(self.app, timed_protocol(given.authorize_timeout))
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=RIGHT, timeout=30)

    def post_raw(
        self, *pieces: bytes, pause: float = 0.0, headers: bytes = b"Authorization: a-secret\r\n"
    ) -> tuple[int, Any]:
        """Send raw bytes behind a request line; return the status and the decoded body."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(b"POST /plugsurfing/authorizations HTTP/1.1\r\nHost: x\r\n" + headers + pieces[0])
            for piece in pieces[1:]:
                time.sleep(pause)
                connection.sendall(piece)
            stream = connection.makefile("rb")
            status = int(stream.readline().split()[1])
            length = 0
            while (line := stream.readline()) not in {b"\r\n", b""}:
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return status, json.loads(stream.read(length))

    def post(self, **document: Any) -> httpx.Response:
        return self.client.post("/plugsurfing/authorizations", json=document)

    def records(self, count: int = 1) -> list[DecisionRecord]:
        """Return the records, once there are so many."""
        until = time.monotonic() + 10
        while len(self.recorder.records) < count:
            assert time.monotonic() < until, "it was not recorded in time"
            time.sleep(0.005)
        return self.recorder.records


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "DRAIN_TIME", 0.05)
    monkeypatch.setattr("ingest.config.secret_reload.REREAD_EVERY", 0.05)


@pytest.fixture
def start(serving: Any) -> Iterator[Callable[..., RunningApp]]:
    """Start applications with these settings."""
    apps: list[RunningApp] = []

    def start(**settings: Any) -> RunningApp:
        apps.append(RunningApp(serving, FakeEvaluator(), FakeRecorder(), **settings))
        return apps[-1]

    yield start
    for app in apps:
        app.client.close()


@pytest.fixture
def running(start: Callable[..., RunningApp]) -> RunningApp:
    """An application with the default settings."""
    return start()
