"""How fast other queues do the same database work on PostgreSQL: pgqueuer, and dramatiq and Celery with a Valkey.

Each runs in an environment of its own, which is made here. One job is one event, acknowledged after it is committed.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from rich.progress import Progress
from sqlalchemy import make_url

from tests.bench.databases import POSTGRESQL, harness_on, new_database
from tests.bench.harness import BenchFailed, Harness, wait_until
from tests.bench.http_load import bodies
from tests.bench.report import Column, Report, Row, add_ratios
from tests.bench.rival_workers.event_store import BROKER_VARIABLE, DATABASE_VARIABLE, EVENTS_FILE, TABLES
from tests.bench.work import PATIENCE_S, POLL_S, measure_ours

PACKAGES = {
    "pgqueuer": ("pgqueuer~=1.6", "asyncpg", "uvloop"),
    "dramatiq": ("dramatiq[redis]~=2.2",),
    "celery": ("celery[redis]~=5.7",),
}
DATABASE_PACKAGES = ("psycopg[binary]", "pydantic")
WORKERS = "tests.bench.rival_workers"
MOST_OVER_BROKER = 2_000
"""Events for those with a broker, which take several times as long."""
OUR_GUARANTEES = (
    "an event is settled in the transaction that has what its handlers wrote; a crash ends one process, what else was"
    " in its batch is done, and the event that crashes is alone in the end, and a dead letter"
)


@dataclass(frozen=True)
class Rival:
    """A way to run another queue."""

    name: str
    package: str
    work: tuple[str, ...]
    """What its Python is started with."""
    guarantees: str
    """When a job is acknowledged, and what a handler that crashes ends."""
    processes: int = 1
    """How many such workers are started."""
    most: int | None = None
    """Events at most."""
    environment: Mapping[str, str] = field(default_factory=dict)


_PGQUEUER = (
    "a job is deleted after its handler, many at once; a crash ends the process, and all jobs that it has at hand come"
    " again when its heartbeats have stopped for 30 s"
)
_ACKS_LATE = "a job is acknowledged after its handler, by default before it: then that of a crash is lost"
_CELERY = (
    *("-m", "celery", "--app", f"{WORKERS}.celery_worker", "worker"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),  # there is one worker
)
RIVALS = (
    Rival("pgqueuer, 1 process, its default", "pgqueuer", ("-m", f"{WORKERS}.pgqueuer_worker", "alone"), _PGQUEUER),
    # One process has one thread: the other core would be idle.
    Rival("pgqueuer, 2 processes", "pgqueuer", ("-m", f"{WORKERS}.pgqueuer_worker", "alone"), _PGQUEUER, processes=2),
    Rival(
        "pgqueuer, 2 processes, group commit in the handler",
        "pgqueuer",
        ("-m", f"{WORKERS}.pgqueuer_worker", "group"),
        f"{_PGQUEUER}; an event that fails fails its whole group",
        processes=2,
    ),
    # A process for each core, each with the threads it starts with, which wait for the database most of the time.
    Rival(
        "dramatiq, 2 processes, 8 threads each",
        "dramatiq",
        ("-m", "dramatiq", f"{WORKERS}.dramatiq_worker", "--processes", "2", "--threads", "8"),
        "a job is acknowledged after its handler; a crash ends all processes of the command, and the jobs that the"
        " crashed one had fetched come again when its heartbeats have stopped for 60 s",
        most=MOST_OVER_BROKER,
        # Jobs for each process beforehand; 16 by default, as many as its threads do while it asks for more.
        environment={"dramatiq_queue_prefetch": "100"},
    ),
    # Its usual pool, with two children for each core: while one waits for the database another works.
    Rival(
        "Celery, acks_late, 4 child processes",
        "celery",
        (*_CELERY, "--pool", "prefork", "--concurrency", "4"),
        f"{_ACKS_LATE}; a crash ends a child process, and its job comes again",
        most=MOST_OVER_BROKER,
    ),
    # Its pool for jobs that wait for a database most of the time.
    Rival(
        "Celery, acks_late, 8 threads",
        "celery",
        (*_CELERY, "--pool", "threads", "--concurrency", "8"),
        f"{_ACKS_LATE}; a crash ends the worker, and all jobs that it has at hand come again after an hour",
        most=MOST_OVER_BROKER,
    ),
)

COLUMNS = (Column("events/s", "rate"), Column("webhooks to it", "of_ours", 2))


def rivals(runs: int, events: int, server: str, progress: Progress) -> Report:
    """Measure `webhooks work` and each rival in turn, `runs` times; one that cannot be installed has a remark."""
    ours = Row(f"webhooks work, {POSTGRESQL}")
    theirs = [(rival, Row(f"{rival.name}, one job an event")) for rival in RIVALS]
    with ExitStack() as stack:
        pythons: dict[str, Path] = {}
        for package in PACKAGES:
            try:
                pythons[package] = stack.enter_context(environment(package, progress))
            except BenchFailed as error:
                for rival, row in theirs:
                    if rival.package == package:
                        row.remark({f"not measured: {error}": 1})
        found = [(rival, row) for rival, row in theirs if rival.package in pythons]
        task = progress.add_task("rivals", total=runs * (len(found) + 1))
        for _ in range(runs):
            progress.update(task, description=f"rivals: {ours.name}")
            with harness_on(POSTGRESQL, server) as harness:
                measure_ours(harness, events, ours)
            progress.advance(task)
            for rival, row in found:
                progress.update(task, description=f"rivals: {row.name}")
                row.add(rate=_measure(rival, pythons[rival.package], server, min(events, rival.most or events)))
                progress.advance(task)
    for _, row in theirs:
        add_ratios([ours], "rate", row, row.name)
        row.samples["of_ours"] = ours.samples.pop(row.name, [])
    return Report(
        f"rivals: {events:,} events to settled on PostgreSQL, with a broker {MOST_OVER_BROKER:,} at most, {runs} runs"
        " side by side",
        COLUMNS,
        [ours, *(row for _, row in theirs)],
        f"medians (least–most)\n\n{ours.name}: {OUR_GUARANTEES}\n"
        + "\n".join(f"{rival.name}: {rival.guarantees}" for rival in RIVALS),
    )


@contextmanager
def environment(package: str, progress: Progress) -> Iterator[Path]:
    """Make an environment with a rival, and yield its Python. Raise BenchFailed if a package is not to be had."""
    with tempfile.TemporaryDirectory(prefix="webhooks-rivals-") as folder:
        task = progress.add_task(f"installing {package}", total=None)
        install = ["pip", "--python", f"{folder}/bin/python", "install", "-q", *PACKAGES[package], *DATABASE_PACKAGES]
        try:
            for command in (["venv", folder], install):
                made = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
                if made.returncode:
                    last_line = made.stderr.strip().rpartition("\n")[2]
                    raise BenchFailed(f"{package} cannot be installed: {last_line}")
        finally:
            progress.remove_task(task)
        yield Path(folder) / "bin" / "python"


def _measure(rival: Rival, python: Path, server: str, events: int) -> float:
    """Return how many events a second a rival does, from the first that is done to the last."""
    with new_database(server) as url, Harness() as harness:
        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        broker = harness.valkey(fsync="everysec")
        given = {DATABASE_VARIABLE: plain, BROKER_VARIABLE: broker, **rival.environment}
        (harness.folder / EVENTS_FILE).write_bytes(b"\n".join(bodies("work", events)))
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(TABLES)
            fill = [str(python), "-m", f"{WORKERS}.{rival.package}_worker", "fill"]
            harness.start("fill", fill, given).finish(PATIENCE_S)
            workers = [
                harness.start(f"work-{number}", [str(python), *rival.work], given) for number in range(rival.processes)
            ]

            def done() -> tuple[int, float]:
                query = "SELECT count(*), max(done) - min(done) FROM delivery"
                count, seconds = connection.execute(query).fetchone() or (0, 0.0)
                return count, seconds

            wait_until(
                lambda: done()[0] >= events, "all jobs are done", *workers, patience_s=PATIENCE_S, every_s=POLL_S
            )
            return (events - 1) / done()[1]
