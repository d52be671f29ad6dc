"""Enqueue due runs: many runs of a handler in one job, each run that has crashed its worker in a job of its own."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import redis
from rq import Queue
from sqlalchemy import Connection

from ingest.errors import QueueUnavailable
from ingest.failpoints import Failpoint, hit
from ingest.queue.batch import new_batch_id
from ingest.queue.queues import BACKGROUND, RUNS_JOB
from ingest.queue.redis_client import queue
from ingest.wire.timestamps import utc_now
from workers.ledger import run_schedule
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.ledger.run_schedule import OpenRun, RunGroup
from workers.resources import Resources

RUNS_PER_JOB = 100
"""How many runs of a handler share a job at most."""

MAX_ENQUEUED = 2000
"""How many due runs of a handler are enqueued at once; the clock calls again a second later."""

MAX_WAITING_JOBS = 2
"""How many jobs of a handler wait in the background at most."""

MARGIN = timedelta(minutes=1)
"""How much longer a job may take than its handlers."""


def enqueue_due_runs(resources: Resources) -> int:
    """Make jobs of due runs, and return the number of runs.

    Runs are marked with their job before it is written; after a crash in between the clock enqueues them again.
    """
    now = utc_now()
    groups = read_once(resources.engine, lambda ledger: run_schedule.due_groups(ledger, now))
    if not groups:
        return 0

    def mark(ledger: Connection) -> list[tuple[str, Sequence[OpenRun]]]:
        waiting = run_schedule.job_counts(ledger)
        jobs = [
            (new_batch_id(), runs)
            for group in groups
            for runs in share_jobs(run_schedule.due(ledger, group, now, runs_wanted(group, waiting.get(group, 0))))
        ]
        run_schedule.set_jobs(ledger, {run.key: job_id for job_id, runs in jobs for run in runs})
        return jobs

    jobs = run_in_transaction(resources.engine, mark)
    if jobs:
        hit(Failpoint.RUN_ENQUEUED)
        _write(resources, jobs)
    return sum(len(runs) for _, runs in jobs)


def runs_wanted(group: RunGroup, waiting_jobs: int) -> int:
    """Return how many runs of a group may be enqueued, beside the jobs of it that wait already.

    In the background few of each handler wait, so that those with little to do need not wait for one with much.
    """
    queue_name, _ = group
    if queue_name != BACKGROUND:
        return MAX_ENQUEUED
    return RUNS_PER_JOB * max(MAX_WAITING_JOBS - waiting_jobs, 0)


def share_jobs(due: Sequence[OpenRun]) -> Iterator[Sequence[OpenRun]]:
    """Yield the runs of each job, all of one group: many share one, but each that has crashed a worker has its own."""
    yield from chunks([run for run in due if not run.has_crashed], RUNS_PER_JOB)
    yield from ([run] for run in due if run.has_crashed)


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
