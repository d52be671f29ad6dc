"""A push provider on a real socket, and a node that sends to it."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from handlers.kit.context import Push
from ingest.config.settings import load_settings
from workers.ledger import pushes
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.pushes import NewPush, PushRow
from workers.ledger.tables import metadata
from workers.plugins import Plugins
from workers.push.registry import open_channels
from workers.resources import Resources

ACCEPTED = Response(status_code=202)


@dataclass
class Provider:
    """A provider that responds with what `answer` returns for a request, and hangs while it is not working."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[dict[str, Any]], Response] = lambda _body: ACCEPTED
    is_working: threading.Event = field(default_factory=threading.Event)
    in_flight: int = 0
    max_in_flight: int = 0

    def respond_with(self, *answers: Response) -> None:
        """Respond with these in turn, and then accept every push."""
        left = iter(answers)
        self.answer = lambda _body: next(left, ACCEPTED)

    async def handle_push(self, request: Request) -> Response:
        self.bodies.append(json.loads(await request.body()))
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            while not self.is_working.is_set():  # noqa: ASYNC110 - it is set by another thread
                await asyncio.sleep(0.01)
            answer = self.answer(self.bodies[-1])
            await asyncio.sleep(0)
        finally:
            self.in_flight -= 1
        return answer

    async def handle_token(self, _request: Request) -> Response:
        return JSONResponse({"access_token": "made-up", "expires_in": 3600, "token_type": "Bearer"})


@contextmanager
def running() -> Iterator[Provider]:
    provider = Provider()
    provider.is_working.set()
    routes = [
        Route("/token", provider.handle_token, methods=["POST"]),
        Route("/{path:path}", provider.handle_push, methods=["POST"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), port=0, log_config=None, timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    provider.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield provider
    provider.is_working.set()
    server.should_exit = True
    thread.join()


def until(condition: Callable[[], object], patience: float = 60.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@pytest.fixture(name="until")
def waiting() -> Callable[..., None]:
    return until


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that accepts everything unless a test says otherwise."""
    with running() as one:
        yield one


@pytest.fixture
def other_provider() -> Iterator[Provider]:
    with running() as one:
        yield one


@dataclass(frozen=True)
class PushNode:
    """A ledger with pushes, and the resources to send them."""

    resources: Resources

    def push(self, number: int = 1, **parts: Any) -> str:
        """Insert a push on every channel, as a run does."""
        usual = {"user_id": f"driver-{number}", "title": "Fee", "body": "Soon", "collapse_key": f"fee:{number}"}
        created_at = parts.pop("created_at", datetime.now(UTC))
        push = Push(**{**usual, **parts})
        rows = [NewPush(f"d{number}", "warn", name, push, created_at) for name in self.resources.channels]
        with self.resources.engine.begin() as ledger:
            pushes.insert(ledger, rows)
        return rows[0].id

    def rows(self, **wanted: Any) -> list[PushRow]:
        with self.resources.engine.begin() as ledger:
            return pushes.find(ledger, **wanted)

    def states(self) -> list[str]:
        return sorted(row.state.value for row in self.rows())

    def row(self) -> PushRow:
        (one,) = self.rows()
        return one


@pytest.fixture
def push_node_on(valkey: redis.Redis, tmp_path: Path) -> Iterator[Callable[..., PushNode]]:
    """Build a node on a database, with these settings and plugins."""
    engines = []

    def build(database_url: str, plugins: Plugins | None = None, **overrides: Any) -> PushNode:
        engine = create_ledger_engine(database_url, creates_file=True)
        engines.append(engine)
        metadata.create_all(engine)
        usual = {"data_dir": tmp_path, "database_url": database_url, "retry_first": "20ms"}
        settings = load_settings(**{**usual, **overrides})
        plugins = plugins or Plugins(())
        channels = open_channels(settings, plugins.channels)
        return PushNode(Resources(settings, plugins, engine, valkey, channels))

    yield build
    for engine in engines:
        engine.dispose()


@pytest.fixture
def push_node(push_node_on: Callable[..., PushNode], provider: Provider, tmp_path: Path) -> Callable[..., PushNode]:
    """Build a node whose channel is `http`, unless a test says otherwise."""

    def build(plugins: Plugins | None = None, **overrides: Any) -> PushNode:
        usual = {"push": "http", "push_http_url": f"{provider.url}/pushes", "push_http_key": "the-key"}
        return push_node_on(f"sqlite:///{tmp_path / 'ledger.db'}", plugins, **{**usual, **overrides})

    return build
