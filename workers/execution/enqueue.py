"""Enqueue due runs: many runs of a handler in one job, each run that has failed in a job of its own."""

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
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.run_schedule import OpenRun
from workers.resources import Resources

RUNS_PER_JOB = 100
"""How many runs of a handler share a job at most."""

MAX_ENQUEUED = 2000
"""How many due runs are enqueued at once; the clock calls again a second later."""

MARGIN = timedelta(minutes=1)
"""How much longer a job may take than its handlers."""


def enqueue_due_runs(resources: Resources) -> int:
    """Make jobs of all due runs, and return the number of runs.

    Runs are marked with their job before it is written; after a crash in between the clock enqueues them again.
    """

    def mark(ledger: Connection) -> list[tuple[str, Sequence[OpenRun]]]:
        due = run_schedule.due(ledger, datetime.now(UTC), MAX_ENQUEUED)
        jobs = [(new_batch_id(), group) for group in group_into_jobs(due)]
        run_schedule.set_jobs(ledger, {run.key: job_id for job_id, group in jobs for run in group})
        return jobs

    jobs = run_in_transaction(resources.engine, mark)
    if jobs:
        hit(Failpoint.RUN_ENQUEUED)
        _write(resources, jobs)
    return sum(len(group) for _, group in jobs)


def group_into_jobs(due: Sequence[OpenRun]) -> Iterator[Sequence[OpenRun]]:
    """Yield the runs of each job.

    Runs without a failure share jobs: hundreds of single jobs would delay the session events that they wait for.
    """
    without_failures = sorted((run for run in due if not run.has_failed), key=lambda run: (run.queue, run.handler))
    for _, alike in groupby(without_failures, key=lambda run: (run.queue, run.handler)):
        yield from chunks(list(alike), RUNS_PER_JOB)
    yield from ([run] for run in due if run.has_failed)


def _write(resources: Resources, jobs: Sequence[tuple[str, Sequence[OpenRun]]]) -> None:
    settings = resources.settings
    try:
        with resources.connection.pipeline(transaction=True) as pipe:
            for job_id, group in jobs:
                job = Queue.prepare_data(
                    RUNS_JOB,
                    args=[group[0].handler, [[run.delivery_id, run.attempt] for run in group]],
                    job_id=job_id,
                    description=describe(group),
                    timeout=int((settings.handler_timeout * len(group) + MARGIN).total_seconds()),
                    result_ttl=int(settings.finished_jobs_kept.total_seconds()),
                    failure_ttl=int(settings.failed_jobs_kept.total_seconds()),
                )
                queue(group[0].queue, resources.connection).enqueue_many([job], pipeline=pipe)
            pipe.execute()
    except redis.RedisError as error:
        raise QueueUnavailable(f"runs cannot be enqueued: {type(error).__name__}") from error


def describe(group: Sequence[OpenRun]) -> str:
    """Format a job's description for the dashboard."""
    if len(group) > 1:
        return f"{group[0].handler}: {len(group)} deliveries"
    (run,) = group
    attempt = f", attempt {run.attempt}" if run.attempt > 1 else ""
    return f"{run.handler}: delivery {run.delivery_id[:12]}{attempt}"
