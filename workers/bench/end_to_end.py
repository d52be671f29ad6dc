"""How much goes from POST to settled with everything on this machine, the load included."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from rich.progress import Progress

from workers.bench.accept import MOST_PER_SECOND
from workers.bench.databases import POSTGRESQL, SQLITE
from workers.bench.depths import waiting_in
from workers.bench.harness import KEY
from workers.bench.http_load import LoadSpec, bodies
from workers.bench.pipeline import Pipeline, everything
from workers.bench.report import Column, Report, Row, p99
from workers.bench.work import stage_on

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
class Extent:
    """How much is measured: `singles` single events, a steady `rate` for so many seconds, a flood for half of that."""

    runs: int
    seconds: float
    rate: float
    singles: int


def through(extent: Extent, server: str | None, progress: Progress) -> Report:
    """Measure single events, a steady rate and a flood on each database, `runs` times."""
    kinds = [SQLITE, *([POSTGRESQL] if server else [])]
    rows = {kind: _rows(kind, extent.rate) for kind in kinds}
    task = progress.add_task("through", total=extent.runs * len(kinds) * 3)
    for _ in range(extent.runs):
        for kind in kinds:
            with stage_on(kind, server) as stage, everything(stage) as house:
                idle, steady, flood = rows[kind]
                progress.update(task, description=f"through: {idle.name}")
                house.load(_order(house, "warm-up", WARM_UP, 60), lambda: None)
                _single_events(house, extent.singles, idle)
                progress.update(task, advance=1, description=f"through: {steady.name}")
                count = round(extent.rate * extent.seconds)
                _under_load(house, _order(house, "steady", count, extent.seconds * 2, extent.rate), steady)
                progress.update(task, advance=1, description=f"through: {flood.name}")
                count = round(extent.seconds / 2 * MOST_PER_SECOND)
                _under_load(house, _order(house, "flood", count, extent.seconds / 2), flood)
                progress.advance(task)
    return Report(
        f"through: POST to settled, load included, {extent.runs} runs; {extent.seconds:g} s, floods half of that",
        COLUMNS,
        [row for kind in kinds for row in rows[kind]],
        "medians (least–most); a single event's time is taken from before the POST, the others' from receipt",
    )


def _rows(kind: str, rate: float) -> tuple[Row, Row, Row]:
    names = "one event, idle", f"{rate:,.0f}/s", "64 connections, as fast as they are answered"
    idle, steady, flood = (Row(f"{kind}: {name}") for name in names)
    return idle, steady, flood


def _order(house: Pipeline, seed: str, count: int, seconds: float, rate: float | None = None) -> LoadSpec:
    return LoadSpec(house.url, KEY, seed, count, seconds, rate=rate)


def _single_events(house: Pipeline, count: int, row: Row) -> None:
    took: list[float] = []
    for body in bodies("idle", count):
        took.append(1000 * house.pass_one(body))
        time.sleep(BETWEEN_SINGLE_EVENTS_S)
    row.add(p50_ms=median(took), p99_ms=p99(took))


def _under_load(house: Pipeline, order: LoadSpec, row: Row) -> None:
    depths: list[tuple[datetime, int]] = []
    began_at = datetime.now(UTC)
    saw = house.load(order, lambda: depths.append((datetime.now(UTC), waiting_in(house.inbox))))
    passages = house.passages(began_at)
    first_at, last_at = passages[0].received_at, passages[-1].received_at
    settled_at = max(passage.settled_at for passage in passages)
    took = [1000 * (passage.settled_at - passage.received_at).total_seconds() for passage in passages]
    row.add(
        answered=saw.rate,
        settled=len(passages) / (settled_at - first_at).total_seconds(),
        half_time=_depth_about(depths, first_at + (last_at - first_at) / 2),
        at_end=_depth_about(depths, last_at),
        drained_s=(settled_at - last_at).total_seconds(),
        p50_ms=median(took),
        p99_ms=p99(took),
    )
    row.remark(saw.refused)


def _depth_about(depths: list[tuple[datetime, int]], at: datetime) -> float:
    """Take the median of some looks, since one may fall just before or after a batch goes."""

    def distance(look: tuple[datetime, int]) -> timedelta:
        return abs(look[0] - at)

    return median(depth for _, depth in sorted(depths, key=distance)[:5])
