"""A stub of the Drive API on a real socket, and a fake clock."""

import inspect
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import redis
import stamina

from ingest.config.settings import Settings, load_settings
from workers.drive.client import DriveClient

KEY = "the-drive-key"


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as it arrived, its path still encoded."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return json.loads(self.body)


@dataclass(frozen=True)
class StubResponse:
    """A response, with a delay before it and one between two bytes of its body, in seconds."""

    status: int = 200
    body: bytes = b"{}"
    after: float = 0
    drip: float = 0


@dataclass
class StubApi:
    """The API: it returns its responses in turn, the last one for ever."""

    url: str = ""
    requests: list[ReceivedRequest] = field(default_factory=list)
    respond: Callable[[ReceivedRequest], StubResponse] = lambda _request: StubResponse()

    def returns(self, *responses: object) -> None:
        """Set the responses: documents, statuses, bytes, or those of `slow`."""
        left = [self.as_response(response) for response in responses]
        self.respond = lambda _request: left.pop(0) if len(left) > 1 else left[0]

    def slow(self, document: object, *, after: float = 0, drip: float = 0) -> StubResponse:
        return StubResponse(body=json.dumps(document).encode(), after=after, drip=drip)

    def as_response(self, response: object) -> StubResponse:
        match response:
            case StubResponse():
                return response
            case int():
                return StubResponse(response)
            case bytes():
                return StubResponse(body=response)
            case _:
                return StubResponse(body=json.dumps(response).encode())

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@pytest.fixture
def api() -> Iterator[StubApi]:
    api = StubApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            api.requests.append(ReceivedRequest(self.command, self.path, headers, body))
            response = api.respond(api.requests[-1])
            try:
                self._send(response)
            except (BrokenPipeError, ConnectionResetError):  # the client has gone
                self.close_connection = True

        do_POST = do_PUT = do_GET  # noqa: N815 - names of http.server

        def _send(self, response: StubResponse) -> None:
            time.sleep(response.after)
            self.send_response(response.status)
            self.send_header("content-length", str(len(response.body)))
            self.end_headers()
            if not response.drip:
                self.wfile.write(response.body)
                return
            for number in range(len(response.body)):
                self.wfile.write(response.body[number : number + 1])
                time.sleep(response.drip)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield api
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def settings_of(api: StubApi) -> Callable[..., Settings]:
    """Settings that lead to the stub."""

    def settings(**overrides: object) -> Settings:
        return load_settings(**{"drive_api_url": f"{api.url}/drive", "drive_api_key": KEY, **overrides})

    return settings


@dataclass
class FakeClock:
    """A clock that moves only when `sleep` is called."""

    at: datetime = datetime(2025, 6, 12, 10, 56, 40, tzinfo=UTC)
    slept: list[float] = field(default_factory=list)
    elapsed: float = 0

    def now(self) -> datetime:
        return self.at + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.elapsed += seconds


@pytest.fixture
def call(settings_of: Callable[..., Settings], clock: "FakeClock") -> Callable[..., Any]:
    """Call one method of a client on the fake clock; lists are read to their end."""

    def call(
        method: str,
        *args: object,
        connection: redis.Redis | None = None,
        deadline: timedelta | None = None,
        settings: Settings | None = None,
        **options: object,
    ) -> Any:
        with DriveClient(
            settings or settings_of(),
            connection,
            deadline=deadline,
            now=clock.now,
            monotonic=clock.monotonic,
            sleep=clock.sleep,
        ) as client:
            result = getattr(client, method)(*args, **options)
            return list(result) if inspect.isgenerator(result) else result

    return call


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def _no_delay_between_attempts() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=4, cap=True):
        yield
