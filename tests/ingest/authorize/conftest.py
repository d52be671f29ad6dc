"""A lane on a real socket, whose judges do as a test tells them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from ingest.authorize.app import create_authorize_app
from ingest.authorize.decision_record import DecisionRecord
from ingest.authorize.evaluator import EvaluatorStatus, PolicyResult
from ingest.authorize.http_protocol import timed_protocol
from ingest.config.settings import load_settings
from ingest.http import responses
from ingest.wire.authorization.request import AuthorizationRequest

RIGHT = {"Authorization": "a-secret"}


@dataclass
class FakeJudges:
    """Say what `rule` says, and remember what they were asked."""

    rule: Callable[[AuthorizationRequest], PolicyResult] = lambda _question: PolicyResult()
    takes: float = 0.0
    questions: list[AuthorizationRequest] = field(default_factory=list)
    ready: int = 1
    stopped: bool = False

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True

    async def evaluate(self, question: AuthorizationRequest, until: float) -> PolicyResult:  # noqa: ARG002 - as judges are asked
        self.questions.append(question)
        await asyncio.sleep(self.takes)
        return self.rule(question)

    def status(self) -> EvaluatorStatus:
        return EvaluatorStatus(1, self.ready, ("by_key",))


@dataclass
class FakeRecorder:
    """Remembers verdicts."""

    verdicts: list[DecisionRecord] = field(default_factory=list)

    def record(self, verdict: DecisionRecord) -> None:
        self.verdicts.append(verdict)

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Lane:
    """A lane, and a client of it that has the right credentials."""

    def __init__(self, serving: Any, judges: FakeJudges, recorder: FakeRecorder, **settings: Any) -> None:
        self.judges, self.recorder = judges, recorder
        given = load_settings(**{"authorize_credentials": "a-secret", **settings})
        self.app = create_authorize_app(given, judges, recorder)
        self.port = serving(self.app, timed_protocol(given.authorize_timeout))
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=RIGHT, timeout=30)

    def ask(self, **document: Any) -> httpx.Response:
        return self.client.post("/plugsurfing/authorizations", json=document)

    def verdicts(self, count: int = 1) -> list[DecisionRecord]:
        """What was recorded, once there is so much of it."""
        until = time.monotonic() + 10
        while len(self.recorder.verdicts) < count:
            assert time.monotonic() < until, "it was not recorded in time"
            time.sleep(0.005)
        return self.recorder.verdicts


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "DRAIN_TIME", 0.05)
    monkeypatch.setattr("ingest.config.secret_reload.REREAD_EVERY", 0.05)


@pytest.fixture
def open_lane(serving: Any) -> Iterator[Callable[..., Lane]]:
    """Open a lane with these settings."""
    lanes: list[Lane] = []

    def open_it(**settings: Any) -> Lane:
        lanes.append(Lane(serving, FakeJudges(), FakeRecorder(), **settings))
        return lanes[-1]

    yield open_it
    for lane in lanes:
        lane.client.close()


@pytest.fixture
def lane(open_lane: Callable[..., Lane]) -> Lane:
    """A lane with the settings that it has by default."""
    return open_lane()
