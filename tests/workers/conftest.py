"""A provider of pushes on a real socket, a ledger to send from, and the equipment to do it."""

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

TAKEN = Response(status_code=202)


@dataclass
class Provider:
    """A provider that answers as it is told: with what `answer` makes of a request, and nothing while it hangs."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[dict[str, Any]], Response] = lambda _body: TAKEN
    works: threading.Event = field(default_factory=threading.Event)
    at_once: int = 0
    most_at_once: int = 0

    def says(self, *answers: Response) -> None:
        """Give these answers in turn, and then that it has taken the push."""
        left = iter(answers)
        self.answer = lambda _body: next(left, TAKEN)

    async def take(self, request: Request) -> Response:
        self.bodies.append(json.loads(await request.body()))
        self.headers.append(dict(request.headers))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            while not self.works.is_set():  # noqa: ASYNC110 - it is set by another thread
                await asyncio.sleep(0.01)
            answer = self.answer(self.bodies[-1])
            await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        return answer

    async def give_token(self, _request: Request) -> Response:
        return JSONResponse({"access_token": "made-up", "expires_in": 3600, "token_type": "Bearer"})


@contextmanager
def running() -> Iterator[Provider]:
    provider = Provider()
    provider.works.set()
    routes = [
        Route("/token", provider.give_token, methods=["POST"]),
        Route("/{path:path}", provider.take, methods=["POST"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), port=0, log_config=None, timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    provider.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield provider
    provider.works.set()
    server.should_exit = True
    thread.join()


def until(condition: Callable[[], object], patience: float = 20.0) -> None:
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
    """A provider that takes everything until it is told otherwise."""
    with running() as one:
        yield one


@pytest.fixture
def other_provider() -> Iterator[Provider]:
    with running() as one:
        yield one


@dataclass(frozen=True)
class House:
    """A ledger with pushes, and what is needed to send them."""

    equipment: Resources

    def push(self, number: int = 1, **parts: Any) -> str:
        """Write a push on every channel, as a run does."""
        usual = {"user_id": "driver-1", "title": "Fee", "body": "Soon", "collapse_key": f"fee:{number}"}
        created_at = parts.pop("created_at", datetime.now(UTC))
        asked = Push(**{**usual, **parts})
        rows = [NewPush(f"d{number}", "warn", name, asked, created_at) for name in self.equipment.channels]
        with self.equipment.engine.begin() as ledger:
            pushes.add(ledger, rows)
        return rows[0].id

    def rows(self, **wanted: Any) -> list[PushRow]:
        with self.equipment.engine.begin() as ledger:
            return pushes.find(ledger, **wanted)

    def states(self) -> list[str]:
        return sorted(row.state.value for row in self.rows())

    def row(self) -> PushRow:
        (one,) = self.rows()
        return one


@pytest.fixture
def house_on(valkey: redis.Redis, tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Build a house on a database, with these settings and plugins."""
    engines = []

    def build(database_url: str, plugins: Plugins | None = None, **overrides: Any) -> House:
        engine = create_ledger_engine(database_url)
        engines.append(engine)
        metadata.create_all(engine)
        usual = {"data_dir": tmp_path, "database_url": database_url, "retry_first": "20ms"}
        settings = load_settings(**{**usual, **overrides})
        plugins = plugins or Plugins(())
        channels = open_channels(settings, plugins.channels)
        return House(Resources(settings, plugins, engine, valkey, channels))

    yield build
    for engine in engines:
        engine.dispose()


@pytest.fixture
def house(house_on: Callable[..., House], provider: Provider, tmp_path: Path) -> Callable[..., House]:
    """Build a house whose channel is `http`, unless said otherwise."""

    def build(plugins: Plugins | None = None, **overrides: Any) -> House:
        usual = {"push": "http", "push_http_url": f"{provider.url}/pushes", "push_http_key": "the-key"}
        return house_on(f"sqlite:///{tmp_path / 'ledger.db'}", plugins, **{**usual, **overrides})

    return build
