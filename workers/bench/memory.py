"""How much memory the processes have resident while 100,000 events pass: it should stay as it was."""

from rich.progress import Progress

from workers.bench.databases import SQLITE
from workers.bench.harness import KEY, children, resident_mib
from workers.bench.http_load import LoadSpec
from workers.bench.pipeline import everything
from workers.bench.report import Column, Report, Row
from workers.bench.work import stage_on

STEPS = (0, 1_000, 10_000, 50_000, 100_000)


def memory(rate: float, progress: Progress, steps: tuple[int, ...] = STEPS) -> Report:
    """Send events at this rate and look at the processes on the way."""
    serve, worker, job, clock = rows = [
        Row("serve, relay and sweep in it"),
        Row("worker"),
        Row("its child with a job, at most"),
        Row("clock"),
    ]
    task = progress.add_task("memory", total=steps[-1])
    with stage_on(SQLITE, None) as stage, everything(stage) as house:
        largest = [0.0]

        def look() -> None:
            largest.append(max((resident_mib(pid) for pid in children(house.worker.pid)), default=0.0))

        for before, after in zip((0, *steps), steps, strict=False):
            if after > before:
                house.load(LoadSpec(house.url, KEY, f"memory-{after}", after - before, 1e9, rate=rate), look)
            serve.add(**{str(after): resident_mib(house.serve.pid)})
            worker.add(**{str(after): resident_mib(house.worker.pid)})
            job.add(**{str(after): max(largest)})
            clock.add(**{str(after): resident_mib(house.clock.pid)})
            largest.clear()
            largest.append(0.0)
            progress.update(task, completed=after)
    columns = [Column("at the start" if step == 0 else f"after {step:,}", str(step), 1) for step in steps]
    return Report(f"memory: resident MiB, SQLite, {rate:,.0f} events/s", columns, rows, "one run")
