"""How soon a driver at a charger is answered, whatever else goes on, and what one is told whose policy hangs."""

import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from http import HTTPStatus
from statistics import median

from rich.progress import Progress

from workers.bench.accept import MOST_PER_SECOND
from workers.bench.databases import POSTGRESQL, SQLITE
from workers.bench.drivers import LISTED, put_drivers
from workers.bench.harness import HOST, KEY, PATIENCE_S, WEBHOOKS, Harness, free_port, seen, wait_until
from workers.bench.http_load import LoadSpec
from workers.bench.pipeline import PATH
from workers.bench.process import Process
from workers.bench.questions import AuthorizeLoad, AuthorizeLoadResult
from workers.bench.report import Column, Report, Row, p99
from workers.bench.work import stage_on

CREDENTIALS = "credentials for measuring"
SLOW = 200
TIMEOUT_MS = 2500.0
ON_FAILURE = "NOT_ALLOWED"
CAPACITY_S = 3.0
WARM_UP_S = 1.0
HANGING = '''
"""A policy that never says anything."""

import time

from handlers import AuthorizationRequest, AuthorizeContext, Decision, authorize


@authorize(order=1)
def hangs(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    """Sleep for as long as the process lives."""
    time.sleep(86400)
'''
BUILT_IN = {"AUTHORIZE_KEY_LIST": "true", "AUTHORIZE_ONE_SESSION": "true", "AUTHORIZE_LEAST_BALANCE": "5"}

COLUMNS = (
    Column("answers/s", "rate"),
    Column("p50 ms", "p50_ms", 1),
    Column("p99 ms", "p99_ms", 1),
    Column("most", "most_ms"),
    Column("after the deadline", "late"),
    Column("another answer", "others"),
    Column("events/s meanwhile", "events"),
)


class Scenario(StrEnum):
    """What else goes on while drivers ask."""

    IDLE = "idle"
    """Nothing else to do."""
    HALF = "half"
    """The door at half its speed, and slow clients at both."""
    FULL = "full"
    """The door saturated, and a worker draining it."""
    HANGING = "hanging"
    """A policy that hangs."""


ROWS = {
    Scenario.IDLE: "nothing else to do",
    Scenario.HALF: f"serve at half its speed, {SLOW} slow connections to it and {SLOW} to authorize",
    Scenario.FULL: "serve saturated, a worker draining",
    Scenario.HANGING: "a policy that hangs",
}


@dataclass(frozen=True)
class Scale:
    """How much is measured: each situation `runs` times, with so many questions a second."""

    situations: Sequence[Scenario]
    runs: int
    seconds: float
    rate: float


def authorize(extent: Scale, server: str | None, progress: Progress) -> Report:
    """Measure with each database."""
    situations, runs, seconds, rate = extent.situations, extent.runs, extent.seconds, extent.rate
    kinds = [SQLITE, *([POSTGRESQL] if server else [])]
    rows = {(kind, each): Row(f"{kind}: {ROWS[each]}") for kind in kinds for each in situations}
    task = progress.add_task("authorize", total=runs * len(rows))
    for _ in range(runs):
        for kind in kinds:
            with stage_on(kind, server) as stage:
                measure = _Measure(stage, seconds, rate)
                for each in situations:
                    row = rows[kind, each]
                    progress.update(task, description=f"authorize: {row.name}")
                    measure.of(each, row)
                    progress.advance(task)
    return Report(
        f"authorize: {rate:g} questions a second for {seconds:g} s, {runs} runs; deadline {TIMEOUT_MS / 1000:g} s",
        COLUMNS,
        list(rows.values()),
        "medians (least–most) of each run's figures, as the asking process sees them",
    )


class _Measure:
    """The steps of a run, one after the other on one stage."""

    def __init__(self, stage: Harness, seconds: float, rate: float) -> None:
        self._stage = stage
        self._seconds = seconds
        self._rate = rate
        self._loads = 0
        self._port = 0
        self._warm_up = min(WARM_UP_S, seconds)
        stage.valkey(fsync="everysec")
        put_drivers(stage.settings().database_url)

    def of(self, situation: Scenario, row: Row) -> None:
        """Measure one of them."""
        match situation:
            case Scenario.IDLE:
                self._idle(row)
            case Scenario.HALF:
                self._half(row)
            case Scenario.FULL:
                self._full(row)
            case Scenario.HANGING:
                self._hanging(row)

    def _idle(self, row: Row) -> None:
        """Ask while nothing else happens."""
        with self._lane(BUILT_IN) as port:
            self._ask(row, port, expected="ALLOWED")

    def _half(self, row: Row) -> None:
        """Ask while the door takes half of what it can, and slow clients are at both."""
        serve, self._port = self._stage.serve()
        capacity = seen(*self._load(min(CAPACITY_S, self._seconds))).rate
        with self._lane(BUILT_IN) as port:
            span = self._seconds + 2 * self._warm_up
            slow = AuthorizeLoad(port, CREDENTIALS, seconds=span, slow=SLOW, slow_ports=(port, self._port))
            dribble = self._start(slow)
            load, order = self._load(span, capacity / 2)
            self._ask(row, port, expected="ALLOWED")
            row.add(events=seen(load, order).rate)
            _heard(dribble, slow)
        serve.stop()

    def _full(self, row: Row) -> None:
        """Ask while the door takes all that it can, and a worker takes it on."""
        worker = self._stage.work()
        serve, self._port = self._stage.serve()
        with self._lane(BUILT_IN) as port:
            load, order = self._load(self._seconds + 2 * self._warm_up)
            self._ask(row, port, expected="ALLOWED")
            row.add(events=seen(load, order).rate)
        worker.stop()
        serve.stop()

    def _hanging(self, row: Row) -> None:
        """Ask a policy that never answers."""
        (self._stage.folder / "hanging.py").write_text(HANGING)
        with self._lane({"HANDLER_MODULES": "hanging", "AUTHORIZE_ON_FAILURE": ON_FAILURE}) as port:
            self._ask(row, port, expected=ON_FAILURE)

    @contextmanager
    def _lane(self, policies: dict[str, str]) -> Iterator[int]:
        port = free_port()
        environment = {
            "AUTHORIZE_CREDENTIALS": CREDENTIALS,
            "AUTHORIZE_PORT": str(port),
            "DATA_DIR": str(self._stage.folder),
            "DATABASE_URL": self._stage.settings().database_url,
            "LOG_LEVEL": "error",
            **policies,
        }
        process = self._stage.python("-c", WEBHOOKS, "authorize", name="authorize", environment=environment)
        try:
            wait_until(lambda: _is_ready(port), "authorize is ready", process)
            yield port
        finally:
            process.stop()

    def _load(self, seconds: float, rate: float | None = None) -> tuple[Process, LoadSpec]:
        self._loads += 1
        count = round(seconds * (rate or MOST_PER_SECOND))
        url = f"http://{HOST}:{self._port}{PATH}"
        order = LoadSpec(url, KEY, f"events-{self._loads}", count, seconds, rate=rate)
        return self._stage.load(order), order

    def _ask(self, row: Row, port: int, *, expected: str) -> None:
        time.sleep(self._warm_up)  # the load builds all of its requests before it sends one
        order = AuthorizeLoad(port, CREDENTIALS, self._rate, self._seconds, LISTED)
        heard = _heard(self._start(order), order)
        took = heard.took_ms or [0.0]
        row.add(
            rate=len(heard.took_ms) / self._seconds,
            p50_ms=median(took),
            p99_ms=p99(took),
            most_ms=max(took),
            late=sum(each > TIMEOUT_MS for each in took),
            others=sum(heard.decisions.values()) - heard.decisions.get(expected, 0),
        )
        row.remark({what: count for what, count in heard.decisions.items() if what != expected})

    def _start(self, order: AuthorizeLoad) -> Process:
        self._loads += 1
        arguments = ("-m", "workers.bench.questions", json.dumps(asdict(order)))
        return self._stage.python(*arguments, name=f"questions-{self._loads}", environment={})


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


def _heard(process: Process, order: AuthorizeLoad) -> AuthorizeLoadResult:
    answer = process.finish(PATIENCE_S * 2 + order.seconds)
    return AuthorizeLoadResult(**json.loads(answer.splitlines()[-1]))
