"""How fast the door takes events: signed POSTs over kept-alive connections, a closed loop, against two rivals.

The rivals are an empty Starlette endpoint, which nothing on Starlette can beat, and the usual recipe, one
`queue.enqueue` a request, on a Valkey that syncs its log before it answers: there only the queue keeps an event.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rich.progress import Progress

from workers.bench.baselines import KEY_VARIABLE, REDIS_VARIABLE
from workers.bench.harness import HOST, KEY, Harness, free_port, resident_mib, seen, wait_for_http
from workers.bench.http_load import LoadSpec
from workers.bench.pipeline import PATH
from workers.bench.process import Process
from workers.bench.report import Column, Report, Row, add_ratios

CONNECTIONS = 64
# More than any door here can answer; a load that runs out of requests ends early and is still measured right.
MOST_PER_SECOND = 30_000
WARM_UP_S = 0.5

COLUMNS = (
    Column("requests/s", "rate"),
    Column("p50 ms", "p50_ms", 1),
    Column("p99 ms", "p99_ms", 1),
    Column("to the empty one", "to_empty", 2),
    Column("to the usual recipe", "to_usual", 1),
    Column("RSS MiB", "rss_mib", spread=False),
)


@dataclass(frozen=True)
class Target:
    """A door: its name in the table, and how to open it on a stage."""

    name: str
    open: Callable[[Harness], tuple[Process, int]]


def accept(runs: int, seconds: float, progress: Progress) -> Report:
    """Measure every door in turn, `runs` times."""
    contestants = (
        Target("empty Starlette 200", _empty),
        Target("usual recipe: enqueue per request", _usual),
        Target("webhooks serve", _serve),
        Target("webhooks serve, a worker beside it", _serve_and_work),
    )
    rows = [Row(contestant.name) for contestant in contestants]
    task = progress.add_task("accept", total=runs * len(rows))
    for run in range(runs):
        for contestant, row in zip(contestants, rows, strict=True):
            progress.update(task, description=f"accept: {contestant.name}")
            with Harness() as stage:
                process, port = contestant.open(stage)
                ordered = order(port, run, seconds)
                saw = seen(stage.load(ordered), ordered)
                row.add(rate=saw.rate, p50_ms=saw.p50_ms, p99_ms=saw.p99_ms, rss_mib=resident_mib(process.pid))
                row.remark(saw.refused)
            progress.advance(task)
    add_ratios(rows, "rate", rows[0], "to_empty")
    add_ratios(rows, "rate", rows[1], "to_usual")
    return Report(
        f"accept: signed POSTs over {CONNECTIONS} connections for {seconds:g} s, {runs} runs side by side",
        COLUMNS,
        rows,
        "medians (least–most); ratios are taken within a run",
    )


def order(port: int, run: int, seconds: float) -> LoadSpec:
    """Order a load of this bench's kind."""
    return LoadSpec(
        url=f"http://{HOST}:{port}{PATH}",
        key=KEY,
        seed=f"run{run}",
        count=round((seconds + WARM_UP_S) * MOST_PER_SECOND),
        seconds=seconds,
        warm_up_s=WARM_UP_S,
        connections=CONNECTIONS,
    )


def _empty(stage: Harness) -> tuple[Process, int]:
    return _uvicorn(stage, "empty", {})


def _usual(stage: Harness) -> tuple[Process, int]:
    return _uvicorn(stage, "enqueue_per_request", {REDIS_VARIABLE: stage.valkey(fsync="always"), KEY_VARIABLE: KEY})


def _serve(stage: Harness) -> tuple[Process, int]:
    stage.valkey(fsync="everysec")
    return stage.serve()


def _serve_and_work(stage: Harness) -> tuple[Process, int]:
    stage.valkey(fsync="everysec")
    stage.work()
    return stage.serve()


def _uvicorn(stage: Harness, app: str, environment: dict[str, str]) -> tuple[Process, int]:
    port = free_port()
    options = ("--factory", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    process = stage.python(
        *("-m", "uvicorn", f"workers.bench.baselines:{app}", *options, "--host", HOST, "--port", str(port)),
        name=app,
        environment=environment,
    )
    wait_for_http(process, f"http://{HOST}:{port}/")
    return process, port
