"""Put runs that are due on their queues: many of a handler together, each that failed in a job of its own."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

import redis
from rq import Queue
from sqlalchemy import Connection

from ingest.errors import QueueUnavailable
from ingest.failpoints import Failpoint, hit
from ingest.queue.batch import new_batch_id
from ingest.queue.queues import RUNS_JOB, queue
from workers.ledger import run_schedule
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.run_schedule import OpenRun
from workers.resources import Resources

RUNS_PER_JOB = 100
"""How many runs of a handler share a job at most."""

AT_ONCE = 2000
"""How many due runs are offered in one go; the clock comes again a second later."""

MARGIN = timedelta(minutes=1)


def enqueue_due_runs(equipment: Resources) -> int:
    """Make jobs of all runs that are due, and return how many runs they are.

    A run is marked with its job before the job is written: a crash in between leaves a mark whose job the clock does
    not find, and the run is offered again.
    """

    def mark(ledger: Connection) -> list[tuple[str, list[OpenRun]]]:
        jobs = [
            (new_batch_id(), some) for some in group_into_jobs(run_schedule.due(ledger, datetime.now(UTC), AT_ONCE))
        ]
        run_schedule.mark_offered(ledger, {run.key: job_id for job_id, some in jobs for run in some})
        return jobs

    jobs = run_in_transaction(equipment.engine, mark)
    if jobs:
        hit(Failpoint.RUN_ENQUEUED)
        _write(equipment, jobs)
    return sum(len(some) for _, some in jobs)


def group_into_jobs(due: Sequence[OpenRun]) -> Iterator[list[OpenRun]]:
    """Part runs into jobs.

    Those that have only waited, for their first attempt or for news of a session, go together: hundreds of them one by
    one would keep the session events away that they wait for.
    """
    without_failures = sorted((run for run in due if not run.has_failed), key=lambda run: (run.queue, run.handler))
    for _, alike in groupby(without_failures, key=lambda run: (run.queue, run.handler)):
        some = list(alike)
        for start in range(0, len(some), RUNS_PER_JOB):
            yield some[start : start + RUNS_PER_JOB]
    yield from ([run] for run in due if run.has_failed)


def _write(equipment: Resources, jobs: Sequence[tuple[str, list[OpenRun]]]) -> None:
    settings = equipment.settings
    try:
        with equipment.connection.pipeline(transaction=True) as pipe:
            for job_id, some in jobs:
                job = Queue.prepare_data(
                    RUNS_JOB,
                    args=[some[0].handler, [[run.delivery_id, run.attempt] for run in some]],
                    job_id=job_id,
                    description=describe(some),
                    timeout=int((settings.handler_timeout * len(some) + MARGIN).total_seconds()),
                    result_ttl=int(settings.finished_jobs_kept.total_seconds()),
                    failure_ttl=int(settings.failed_jobs_kept.total_seconds()),
                )
                queue(some[0].queue, equipment.connection).enqueue_many([job], pipeline=pipe)
            pipe.execute()
    except redis.RedisError as error:
        raise QueueUnavailable(f"runs cannot be put on their queues: {type(error).__name__}") from error


def describe(some: Sequence[OpenRun]) -> str:
    """Say in one line, for the people at the dashboard, what a job of runs is about."""
    if len(some) > 1:
        return f"{some[0].handler}: {len(some)} deliveries"
    (run,) = some
    attempt = f", attempt {run.attempt}" if run.attempt > 1 else ""
    return f"{run.handler}: delivery {run.delivery_id[:12]}{attempt}"
