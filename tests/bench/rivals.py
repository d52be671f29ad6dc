"""How fast pgqueuer does the same database work on PostgreSQL: the fastest of the queues that were tried.

It runs in an environment of its own, which is made here. The row "group commit" has that written by hand into its
handler: what one process has at hand is committed together, and fails together.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from rich.progress import Progress
from sqlalchemy import make_url

from tests.bench.databases import POSTGRESQL, harness_on, new_database
from tests.bench.harness import BenchFailed, Process, wait_until
from tests.bench.report import Column, Report, Row, add_ratios
from tests.bench.work import PATIENCE_S, POLL_S, measure_ours

PACKAGES = ("pgqueuer~=1.6", "asyncpg", "uvloop", "pydantic")
SCRIPT = Path(__file__).parent / "pgqueuer_worker.py"
PROCESSES = 2
MODES = {"alone": "one job an event, committed one by one", "group": "one job an event, group commit in the handler"}

COLUMNS = (Column("events/s", "rate"), Column("webhooks to it", "of_ours", 2))


def rivals(runs: int, events: int, server: str, progress: Progress) -> Report:
    """Measure `webhooks work` and pgqueuer in turn, `runs` times."""
    ours = Row(f"webhooks work, {POSTGRESQL}")
    theirs = {mode: Row(f"pgqueuer, {name}, {PROCESSES} processes") for mode, name in MODES.items()}
    task = progress.add_task("rivals", total=runs * (len(theirs) + 1))
    with environment(progress) as python:
        for _ in range(runs):
            progress.update(task, description=f"rivals: {ours.name}")
            with harness_on(POSTGRESQL, server) as harness:
                measure_ours(harness, events, ours)
            progress.advance(task)
            for mode, row in theirs.items():
                progress.update(task, description=f"rivals: {row.name}")
                row.add(rate=_measure(python, server, events, mode))
                progress.advance(task)
    for row in theirs.values():
        add_ratios([ours], "rate", row, row.name)
        row.samples["of_ours"] = ours.samples.pop(row.name)
    return Report(
        f"rivals: {events:,} events to settled on PostgreSQL, {runs} runs side by side",
        COLUMNS,
        [ours, *theirs.values()],
        "medians (least–most); a handler that crashes ends one process of its own with webhooks, and with pgqueuer a"
        " worker with all jobs that it has at hand",
    )


@contextmanager
def environment(progress: Progress) -> Iterator[Path]:
    """Make an environment with the rival, and yield its Python. Raise BenchFailed if a package is not to be had."""
    with tempfile.TemporaryDirectory(prefix="webhooks-rivals-") as folder:
        task = progress.add_task("installing pgqueuer", total=None)
        for command in (["venv", folder], ["pip", "--python", f"{folder}/bin/python", "install", "-q", *PACKAGES]):
            made = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
            if made.returncode:
                last_line = made.stderr.strip().rpartition("\n")[2]
                raise BenchFailed(f"pgqueuer cannot be installed: {last_line}")
        progress.remove_task(task)
        yield Path(folder) / "bin" / "python"


def _measure(python: Path, server: str, events: int, mode: str) -> float:
    with new_database(server) as url, tempfile.TemporaryDirectory(prefix="webhooks-rivals-") as folder:
        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        command = [str(python), str(SCRIPT), plain]
        Process("fill", [*command, "fill", str(events)], Path(folder), {}).finish(PATIENCE_S)
        workers = [Process(f"work-{number}", [*command, mode], Path(folder), {}) for number in range(PROCESSES)]
        try:
            with psycopg.connect(plain, autocommit=True) as connection:

                def done() -> tuple[int, float]:
                    query = "SELECT count(*), max(done) - min(done) FROM delivery"
                    count, seconds = connection.execute(query).fetchone() or (0, 0.0)
                    return count, seconds

                wait_until(
                    lambda: done()[0] >= events, "all jobs are done", *workers, patience_s=PATIENCE_S, every_s=POLL_S
                )
                return (events - 1) / done()[1]
        finally:
            for each in workers:
                each.stop()
