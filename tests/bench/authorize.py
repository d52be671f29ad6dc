"""Is a driver at a charger answered in time whatever the load, and as AUTHORIZE_ON_FAILURE says if a policy hangs?

`python -m tests.bench.authorize --help`
"""

import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from http import HTTPStatus
from statistics import median

import click
from rich.progress import Progress

from tests.bench.__main__ import database_option, print_reports, progress, runs_option, seconds_option
from tests.bench.authorize_load import AuthorizeLoad, AuthorizeLoadResult
from tests.bench.databases import harness_on, kinds_on, postgresql
from tests.bench.driver_fixtures import LISTED, insert_drivers
from tests.bench.harness import HOST, KEY, PATIENCE_S, Harness, Process, load_result, wait_until
from tests.bench.http_load import MAX_RATE, LoadSpec
from tests.bench.pipeline import PATH
from tests.bench.report import Column, Report, Row, p99
from tests.ports import reserve_port
from workers.commands.errors import Failure
from workers.commands.options import as_json

CREDENTIALS = "credentials for measuring"
SLOW = 200
TIMEOUT_MS = 2500.0
ON_FAILURE = "NOT_ALLOWED"
CAPACITY_S = 3.0
WARM_UP_S = 1.0
HANGING = '''
"""A policy that never returns."""

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
    """What else goes on while authorization requests arrive."""

    IDLE = "idle"
    """Nothing else."""
    HALF = "half"
    """`serve` takes half of what it can, and slow clients are connected to it and to `authorize`."""
    FULL = "full"
    """`serve` is saturated, and a worker drains it."""
    HANGING = "hanging"
    """A policy hangs."""


ROWS = {
    Scenario.IDLE: "nothing else to do",
    Scenario.HALF: f"serve at half its speed, {SLOW} slow connections to it and {SLOW} to authorize",
    Scenario.FULL: "serve saturated, a worker draining",
    Scenario.HANGING: "a policy that hangs",
}


@dataclass(frozen=True)
class AuthorizeScale:
    """How much is measured: each scenario `runs` times, with so many requests a second."""

    scenarios: Sequence[Scenario]
    runs: int
    seconds: float
    rate: float


@click.command()
@runs_option(1)
@seconds_option(20.0)
@click.option("--rate", default=50.0, show_default=True, type=click.FloatRange(min=1), help="Requests a second.")
@click.option("--only", type=click.Choice(list(map(str, Scenario))), multiple=True, help="One of the scenarios.")
@database_option
@as_json
def main(  # noqa: PLR0913 - one for each option
    runs: int, seconds: float, rate: float, only: tuple[str, ...], database: str | None, *, as_json: bool
) -> None:
    """Measure how soon a driver at a charger is answered, whatever else goes on.

    No response may come after the deadline or be another than expected: then the exit code is 1.
    """
    scenarios = [each for each in Scenario if not only or each in only]
    with progress() as bar, postgresql(database) as server:
        report = measure(AuthorizeScale(scenarios, runs, seconds, rate), server, bar)
    print_reports([report], as_json=as_json)
    wrong = [row.name for row in report.rows if any(row.samples["late"]) or any(row.samples["others"])]
    if wrong:
        raise Failure(f"Late or other answers: {'; '.join(wrong)}")


def measure(scale: AuthorizeScale, server: str | None, bar: Progress) -> Report:
    """Measure every scenario with each database."""
    kinds = kinds_on(server)
    rows = {(kind, each): Row(f"{kind}: {ROWS[each]}") for kind in kinds for each in scale.scenarios}
    task = bar.add_task("authorize", total=scale.runs * len(rows))
    for _ in range(scale.runs):
        for kind in kinds:
            with harness_on(kind, server) as harness:
                run = _Run(harness, scale.seconds, scale.rate)
                for each in scale.scenarios:
                    row = rows[kind, each]
                    bar.update(task, description=f"authorize: {row.name}")
                    run.measure(each, row)
                    bar.advance(task)
    return Report(
        f"authorize: {scale.rate:g} requests a second for {scale.seconds:g} s, {scale.runs} runs;"
        f" deadline {TIMEOUT_MS / 1000:g} s",
        COLUMNS,
        list(rows.values()),
        "medians (least–most) of each run's figures, as the client sees them",
    )


class _Run:
    """The scenarios of a run, one after the other in one harness."""

    def __init__(self, harness: Harness, seconds: float, rate: float) -> None:
        self._harness = harness
        self._seconds = seconds
        self._rate = rate
        self._loads = 0
        self._port = 0
        self._warm_up = min(WARM_UP_S, seconds)
        harness.valkey(fsync="everysec")
        insert_drivers(harness.settings().database_url)

    def measure(self, scenario: Scenario, row: Row) -> None:
        """Measure one scenario."""
        match scenario:
            case Scenario.IDLE:
                with self._authorize(BUILT_IN) as port:
                    self._send(row, port, expected="ALLOWED")
            case Scenario.HALF:
                self._half(row)
            case Scenario.FULL:
                self._full(row)
            case Scenario.HANGING:
                (self._harness.folder / "hanging.py").write_text(HANGING)
                failing = {"HANDLER_MODULES": "hanging", "AUTHORIZE_ON_FAILURE": ON_FAILURE}
                with self._authorize(failing) as port:
                    self._send(row, port, expected=ON_FAILURE)

    def _half(self, row: Row) -> None:
        serve, self._port = self._harness.serve()
        capacity = load_result(*self._load(min(CAPACITY_S, self._seconds))).rate
        with self._authorize(BUILT_IN) as port:
            span = self._seconds + 2 * self._warm_up
            slow = AuthorizeLoad(port, CREDENTIALS, seconds=span, slow=SLOW, slow_ports=(port, self._port))
            slow_clients = self._start(slow)
            load, spec = self._load(span, capacity / 2)
            self._send(row, port, expected="ALLOWED")
            row.add(events=load_result(load, spec).rate)
            _result(slow_clients, slow)
        serve.stop()

    def _full(self, row: Row) -> None:
        worker = self._harness.work()
        serve, self._port = self._harness.serve()
        with self._authorize(BUILT_IN) as port:
            load, spec = self._load(self._seconds + 2 * self._warm_up)
            self._send(row, port, expected="ALLOWED")
            row.add(events=load_result(load, spec).rate)
        worker.stop()
        serve.stop()

    @contextmanager
    def _authorize(self, policies: dict[str, str]) -> Iterator[int]:
        port = reserve_port()
        process = self._harness.webhooks(
            "authorize",
            AUTHORIZE_CREDENTIALS=CREDENTIALS,
            AUTHORIZE_PORT=str(port),
            LOG_LEVEL="error",
            **policies,
        )
        try:
            wait_until(lambda: _is_ready(port), "authorize is ready", process)
            yield port
        finally:
            process.stop()

    def _load(self, seconds: float, rate: float | None = None) -> tuple[Process, LoadSpec]:
        self._loads += 1
        count = round(seconds * (rate or MAX_RATE))
        spec = LoadSpec(f"http://{HOST}:{self._port}{PATH}", KEY, f"events-{self._loads}", count, seconds, rate=rate)
        return self._harness.load(spec), spec

    def _send(self, row: Row, port: int, *, expected: str) -> None:
        time.sleep(self._warm_up)  # the load builds all of its requests before it sends one
        spec = AuthorizeLoad(port, CREDENTIALS, self._rate, self._seconds, LISTED)
        result = _result(self._start(spec), spec)
        took = result.took_ms or [0.0]
        row.add(
            rate=len(result.took_ms) / self._seconds,
            p50_ms=median(took),
            p99_ms=p99(took),
            most_ms=max(took),
            late=sum(each > TIMEOUT_MS for each in took),
            others=sum(result.decisions.values()) - result.decisions.get(expected, 0),
        )
        row.remark({what: count for what, count in result.decisions.items() if what != expected})

    def _start(self, spec: AuthorizeLoad) -> Process:
        self._loads += 1
        arguments = ("-m", "tests.bench.authorize_load", json.dumps(asdict(spec)))
        return self._harness.python(*arguments, name=f"requests-{self._loads}", environment={})


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=1) as response:
            return bool(response.status == HTTPStatus.OK)
    except OSError:
        return False


def _result(process: Process, spec: AuthorizeLoad) -> AuthorizeLoadResult:
    output = process.finish(PATIENCE_S * 2 + spec.seconds)
    return AuthorizeLoadResult(**json.loads(output.splitlines()[-1]))


if __name__ == "__main__":
    main()
