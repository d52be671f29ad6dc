"""How much goes from POST to settled with everything on this machine, the load included."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from rich.progress import Progress

from tests.bench.databases import harness_on, kinds_on
from tests.bench.harness import KEY
from tests.bench.http_load import MAX_RATE, LoadSpec, bodies
from tests.bench.pipeline import Pipeline, start_pipeline, waiting_in
from tests.bench.report import Column, Report, Row, p99

WARM_UP = 300
BETWEEN_SINGLE_EVENTS_S = 0.2

COLUMNS = (
    Column("answered/s", "answered"),
    Column("settled/s", "settled"),
    Column("inbox at half time", "half_time"),
    Column("at the end", "at_end"),
    Column("s until empty", "drained_s", 1),
    Column("ms to settled, p50", "p50_ms"),
    Column("p99", "p99_ms"),
)


@dataclass(frozen=True)
class EndToEndScale:
    """How much is measured: `singles` single events, a steady `rate` for so many seconds, a flood for half of that."""

    runs: int
    seconds: float
    rate: float
    singles: int


def through(scale: EndToEndScale, server: str | None, progress: Progress) -> Report:
    """Measure single events, a steady rate and a flood on each database, `runs` times."""
    kinds = kinds_on(server)
    rows = {kind: _rows(kind, scale.rate) for kind in kinds}
    task = progress.add_task("through", total=scale.runs * len(kinds) * 3)
    for _ in range(scale.runs):
        for kind in kinds:
            with harness_on(kind, server) as harness, start_pipeline(harness) as pipeline:
                idle, steady, flood = rows[kind]
                progress.update(task, description=f"through: {idle.name}")
                pipeline.load(_spec(pipeline, "warm-up", WARM_UP, 60))
                _single_events(pipeline, scale.singles, idle)
                progress.update(task, advance=1, description=f"through: {steady.name}")
                count = round(scale.rate * scale.seconds)
                _under_load(pipeline, _spec(pipeline, "steady", count, scale.seconds * 2, scale.rate), steady)
                progress.update(task, advance=1, description=f"through: {flood.name}")
                count = round(scale.seconds / 2 * MAX_RATE)
                _under_load(pipeline, _spec(pipeline, "flood", count, scale.seconds / 2), flood)
                progress.advance(task)
    return Report(
        f"through: POST to settled, load included, {scale.runs} runs; {scale.seconds:g} s, floods half of that",
        COLUMNS,
        [row for kind in kinds for row in rows[kind]],
        "medians (least–most); a single event's time is taken from before the POST, the others' from receipt",
    )


def _rows(kind: str, rate: float) -> tuple[Row, Row, Row]:
    names = "one event, idle", f"{rate:,.0f}/s", "64 connections, as fast as they are answered"
    idle, steady, flood = (Row(f"{kind}: {name}") for name in names)
    return idle, steady, flood


def _spec(pipeline: Pipeline, seed: str, count: int, seconds: float, rate: float | None = None) -> LoadSpec:
    return LoadSpec(pipeline.url, KEY, seed, count, seconds, rate=rate)


def _single_events(pipeline: Pipeline, count: int, row: Row) -> None:
    took: list[float] = []
    for body in bodies("idle", count):
        took.append(1000 * pipeline.settle_one(body))
        time.sleep(BETWEEN_SINGLE_EVENTS_S)
    row.add(p50_ms=median(took), p99_ms=p99(took))


def _under_load(pipeline: Pipeline, spec: LoadSpec, row: Row) -> None:
    depths: list[tuple[datetime, int]] = []
    began_at = datetime.now(UTC)
    result = pipeline.load(spec, lambda: depths.append((datetime.now(UTC), waiting_in(pipeline.inbox))))
    transits = pipeline.transits(began_at)
    first_at, last_at = transits[0].received_at, transits[-1].received_at
    settled_at = max(transit.settled_at for transit in transits)
    took = [1000 * (transit.settled_at - transit.received_at).total_seconds() for transit in transits]
    row.add(
        answered=result.rate,
        settled=len(transits) / (settled_at - first_at).total_seconds(),
        half_time=_depth_about(depths, first_at + (last_at - first_at) / 2),
        at_end=_depth_about(depths, last_at),
        drained_s=(settled_at - last_at).total_seconds(),
        p50_ms=median(took),
        p99_ms=p99(took),
    )
    row.remark(result.refused)


def _depth_about(depths: list[tuple[datetime, int]], at: datetime) -> float:
    """Return the median of the five depths read closest to a time: one may fall just before or after a batch leaves."""

    def distance(depth: tuple[datetime, int]) -> timedelta:
        return abs(depth[0] - at)

    return median(depth for _, depth in sorted(depths, key=distance)[:5])
