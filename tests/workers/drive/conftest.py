"""A Drive API on a real socket that answers as it is told, and a clock that nobody has to wait for."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import stamina

from ingest.config.settings import Settings, load_settings

KEY = "the-drive-key"


@dataclass(frozen=True)
class Asked:
    """A request as it came, its path as it was encoded."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What is answered, and how: after how many seconds, and how many between two bytes of the body."""

    status: int = 200
    body: bytes = b"{}"
    after: float = 0
    drip: float = 0


@dataclass
class Stage:
    """The API: it gives its answers in turn, the last one for ever."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], Answer] = lambda _asked: Answer()

    def says(self, *answers: object) -> None:
        """Take a document, a status, or bytes for an answer; see `slowly` for others."""
        left = [self.as_answer(answer) for answer in answers]
        self.answer = lambda _asked: left.pop(0) if len(left) > 1 else left[0]

    def slowly(self, document: object, *, after: float = 0, drip: float = 0) -> Answer:
        return Answer(body=json.dumps(document).encode(), after=after, drip=drip)

    def as_answer(self, answer: object) -> Answer:
        match answer:
            case Answer():
                return answer
            case int():
                return Answer(answer)
            case bytes():
                return Answer(body=answer)
            case _:
                return Answer(body=json.dumps(answer).encode())

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]


@pytest.fixture
def stage() -> Iterator[Stage]:
    api = Stage()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            api.asked.append(Asked(self.command, self.path, headers, body))
            answer = api.answer(api.asked[-1])
            try:
                self._send(answer)
            except (BrokenPipeError, ConnectionResetError):  # the client has gone
                self.close_connection = True

        do_POST = do_PUT = do_GET  # noqa: N815 - names of http.server

        def _send(self, answer: Answer) -> None:
            time.sleep(answer.after)
            self.send_response(answer.status)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            if not answer.drip:
                self.wfile.write(answer.body)
                return
            for number in range(len(answer.body)):
                self.wfile.write(answer.body[number : number + 1])
                time.sleep(answer.drip)

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
def on_stage(stage: Stage) -> Callable[..., Settings]:
    """Settings that lead to the stage."""

    def settings(**overrides: object) -> Settings:
        return load_settings(**{"drive_api_url": f"{stage.url}/drive", "drive_api_key": KEY, **overrides})

    return settings


@dataclass
class FakeClock:
    """Time that passes only when somebody sleeps."""

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

    async def sleep_in_a_loop(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def _no_waiting_between_attempts() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=4, cap=True):
        yield
