"""How much memory the processes have resident while 100,000 events pass: it should not grow."""

from rich.progress import Progress

from tests.bench.databases import SQLITE, harness_on
from tests.bench.harness import KEY, children, resident_mib
from tests.bench.http_load import LoadSpec
from tests.bench.pipeline import start_pipeline
from tests.bench.report import Column, Report, Row

STEPS = (0, 1_000, 10_000, 50_000, 100_000)


def memory(rate: float, progress: Progress, steps: tuple[int, ...] = STEPS) -> Report:
    """Send events at this rate and read the memory of each process after so many of them."""
    serve, worker, job, clock = rows = [
        Row("serve, with the relay"),
        Row("worker"),
        Row("its largest work horse"),
        Row("clock"),
    ]
    task = progress.add_task("memory", total=steps[-1])
    with harness_on(SQLITE, None) as harness, start_pipeline(harness) as pipeline:
        horses = [0.0]

        def watch() -> None:
            forked = (pid for worker in children(pipeline.worker.pid) for pid in children(worker))
            horses.append(max(map(resident_mib, forked), default=0.0))

        for before, after in zip((0, *steps), steps, strict=False):
            if after > before:
                spec = LoadSpec(pipeline.url, KEY, f"memory-{after}", after - before, 1e9, rate=rate)
                pipeline.load(spec, watch)
            serve.add(**{str(after): resident_mib(pipeline.serve.pid)})
            worker.add(**{str(after): resident_mib(pipeline.worker.pid)})
            job.add(**{str(after): max(horses)})
            clock.add(**{str(after): resident_mib(pipeline.clock.pid)})
            horses[:] = [0.0]
            progress.update(task, completed=after)
    columns = [Column("at the start" if step == 0 else f"after {step:,}", str(step), 1) for step in steps]
    return Report(f"memory: resident MiB, SQLite, {rate:,.0f} events/s", columns, rows, "one run")
