"""How fast `serve` takes events: signed POSTs over kept-alive connections, a closed loop, against two baselines.

The baselines are an empty Starlette endpoint, the ceiling of anything on Starlette, and the usual recipe, one
`queue.enqueue` a request, on a Valkey that syncs its log before it answers: there only the queue keeps an event.
"""

from collections.abc import Callable
from dataclasses import dataclass

import psutil
from rich.progress import Progress

from tests.bench.baselines import KEY_VARIABLE, REDIS_VARIABLE
from tests.bench.harness import HOST, KEY, Harness, Process, load_result, resident_mib, wait_for_http
from tests.bench.http_load import MAX_RATE, LoadSpec
from tests.bench.pipeline import PATH
from tests.bench.report import Column, Report, Row, add_ratios
from tests.ports import reserve_port

CONNECTIONS = 64
MANY_CONNECTIONS = 256
WARM_UP_S = 0.5

COLUMNS = (
    Column("requests/s", "rate"),
    Column("p50 ms", "p50_ms", 1),
    Column("p99 ms", "p99_ms", 1),
    Column("CPU µs", "cpu_us"),
    Column("to the empty one", "to_empty", 2),
    Column("to the usual recipe", "to_usual", 1),
    Column("RSS MiB", "rss_mib", spread=False),
)


@dataclass(frozen=True)
class Target:
    """A receiver to load: its name in the table, and how to start it in a harness; returns the process and its port."""

    name: str
    start: Callable[[Harness], tuple[Process, int]]
    connections: int = CONNECTIONS


def accept(runs: int, seconds: float, progress: Progress) -> Report:
    """Measure every target in turn, `runs` times."""
    targets = (
        Target("empty Starlette 200", _empty),
        Target("usual recipe: enqueue per request", _usual),
        Target("webhooks serve", _serve),
        Target("webhooks serve, a worker beside it", _serve_and_work),
        Target(f"webhooks serve, {MANY_CONNECTIONS} connections", _serve, MANY_CONNECTIONS),
    )
    rows = [Row(target.name) for target in targets]
    task = progress.add_task("accept", total=runs * len(rows))
    for run in range(runs):
        for target, row in zip(targets, rows, strict=True):
            progress.update(task, description=f"accept: {target.name}")
            with Harness() as harness:
                process, port = target.start(harness)
                spec = load_spec(port, run, seconds, target.connections)
                cpu_s = cpu_seconds(process.pid)
                result = load_result(harness.load(spec), spec)
                # The result leaves the requests of the warm-up out, which take as long.
                requests = max(1.0, result.rate * (result.seconds + WARM_UP_S))
                cpu_us = 1e6 * (cpu_seconds(process.pid) - cpu_s) / requests
                rss_mib = resident_mib(process.pid)
                row.add(rate=result.rate, p50_ms=result.p50_ms, p99_ms=result.p99_ms, cpu_us=cpu_us, rss_mib=rss_mib)
                row.remark(result.refused)
            progress.advance(task)
    add_ratios(rows, "rate", rows[0], "to_empty")
    add_ratios(rows, "rate", rows[1], "to_usual")
    return Report(
        f"accept: signed POSTs over {CONNECTIONS} connections for {seconds:g} s, {runs} runs side by side",
        COLUMNS,
        rows,
        "medians (least–most); ratios are taken within a run; CPU of the receiver for a request",
    )


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def load_spec(port: int, run: int, seconds: float, connections: int = CONNECTIONS) -> LoadSpec:
    """Return the load of one run; one that runs out of requests ends early and is still measured right."""
    return LoadSpec(
        url=f"http://{HOST}:{port}{PATH}",
        key=KEY,
        seed=f"run{run}",
        count=round((seconds + WARM_UP_S) * MAX_RATE),
        seconds=seconds,
        warm_up_s=WARM_UP_S,
        connections=connections,
    )


def _empty(harness: Harness) -> tuple[Process, int]:
    return _uvicorn(harness, "empty", {})


def _usual(harness: Harness) -> tuple[Process, int]:
    return _uvicorn(harness, "enqueue_per_request", {REDIS_VARIABLE: harness.valkey(fsync="always"), KEY_VARIABLE: KEY})


def _serve(harness: Harness) -> tuple[Process, int]:
    harness.valkey(fsync="everysec")
    return harness.serve()


def _serve_and_work(harness: Harness) -> tuple[Process, int]:
    harness.valkey(fsync="everysec")
    harness.work()
    return harness.serve()


def _uvicorn(harness: Harness, app: str, environment: dict[str, str]) -> tuple[Process, int]:
    port = reserve_port()
    options = ("--factory", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    process = harness.python(
        *("-m", "uvicorn", f"tests.bench.baselines:{app}", *options, "--host", HOST, "--port", str(port)),
        name=app,
        environment=environment,
    )
    wait_for_http(process, f"http://{HOST}:{port}/")
    return process, port
