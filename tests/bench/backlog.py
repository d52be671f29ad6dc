"""What an event costs in `work` while many others wait: behind a backlog of a thousand, and of a million."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from rich.progress import Progress
from sqlalchemy import Engine

from ingest.config.settings import Settings
from ingest.inbox.schema import FILE_NAME
from ingest.relay.relay import Relay
from tests.bench.databases import harness_on, kinds_on
from tests.bench.harness import Harness, Process, wait_until
from tests.bench.http_load import bodies
from tests.bench.pipeline import settled_in
from tests.bench.report import Column, Report, Row
from tests.bench.work import fill
from workers.ledger.database.engine import create_ledger_engine

SMALL = 1_000
ROUNDS = 20
PARTS = 5
PATIENCE_S = 1_800.0
# Seconds; the second for more than LONG events. To count what is settled takes the longer the more there is.
SHORT_POLL, LONG_POLL, LONG = 0.02, 1.0, 100_000
MIB = 1 << 20

COLUMNS = (
    Column("CPU µs of an event", "cpu_us", 1),
    Column(f"to {SMALL:,} waiting", "to_small", 2),
    Column("MiB", "mib"),
)


def backlog(events: int, server: str | None, progress: Progress) -> Report:
    """Settle a backlog of a thousand again and again, then one of so many events in parts, each on a new ledger."""
    rows: list[Row] = []
    kinds = kinds_on(server)
    task = progress.add_task("backlog", total=2 * len(kinds))
    for kind in kinds:
        small = Row(f"{kind}: {SMALL:,} wait, {ROUNDS} times")
        large = [Row(f"{kind}: {events:,} wait, part {part} of {PARTS}") for part in range(1, PARTS + 1)]
        progress.update(task, description=f"backlog: {small.name}")
        with harness_on(kind, server) as harness, _working(harness) as (settings, worker, ledger):
            before = _cpu_seconds(worker.pid)
            for number in range(1, ROUNDS + 1):
                fill(settings, bodies(f"small-{number}", SMALL))
                with _relay(settings):
                    _wait(ledger, SMALL + number * SMALL, worker, SHORT_POLL)
            _add(small, worker, before, ROUNDS * SMALL)
        progress.update(task, advance=1, description=f"backlog: {kind}: {events:,} wait")
        with harness_on(kind, server) as harness, _working(harness) as (settings, worker, ledger):
            fill(settings, bodies("large", events))
            with _relay(settings):
                settled = SMALL
                for number, row in enumerate(large, start=1):
                    before = _cpu_seconds(worker.pid)
                    now = _wait(
                        ledger, SMALL + events * number // PARTS, worker, LONG_POLL if events > LONG else SHORT_POLL
                    )
                    _add(row, worker, before, now - settled)
                    settled = now
        progress.advance(task)
        for row in (small, *large):
            row.add(to_small=row.samples["cpu_us"][0] / small.samples["cpu_us"][0])
        rows += [small, *large]
    return Report(
        f"backlog: what an event costs in `work` while {SMALL:,} wait, and {events:,}",
        COLUMNS,
        rows,
        "one run; CPU and memory of all processes of `work`, pages that they share counted once",
    )


@contextmanager
def _working(harness: Harness) -> Iterator[tuple[Settings, Process, Engine]]:
    """Start `work`, and let it settle a first backlog."""
    harness.valkey(fsync="everysec")
    settings = harness.settings()
    worker = harness.work()
    ledger = create_ledger_engine(settings.database_url)
    try:
        fill(settings, bodies("first", SMALL))
        with _relay(settings):
            _wait(ledger, SMALL, worker, SHORT_POLL)
        yield settings, worker, ledger
    finally:
        ledger.dispose()


@contextmanager
def _relay(settings: Settings) -> Iterator[None]:
    relay = Relay(settings.data_dir / FILE_NAME, settings)
    relay.start()
    try:
        yield
    finally:
        relay.stop()


def _wait(ledger: Engine, events: int, worker: Process, every_s: float) -> int:
    """Wait until so many events are settled, and return how many are."""
    counts = [0]

    def is_done() -> bool:
        counts[0] = settled_in(ledger)
        return counts[0] >= events

    wait_until(is_done, "all events are settled", worker, patience_s=PATIENCE_S, every_s=every_s)
    return counts[0]


def _add(row: Row, worker: Process, cpu_s_before: float, events: int) -> None:
    processes = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    mib = sum(each.memory_full_info().pss for each in processes) / MIB
    row.add(cpu_us=1e6 * (_cpu_seconds(worker.pid) - cpu_s_before) / max(events, 1), mib=mib)


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of its children, those that have ended included."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    own = times.user + times.system + times.children_user + times.children_system
    return float(own + sum(_cpu_seconds(child.pid) for child in process.children()))
