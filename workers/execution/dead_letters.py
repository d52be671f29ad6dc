"""Publish dead letters: a run that was given up is also a failed job of RQ, with its traceback.

The ledger has all of them; RQ shows the newest of each queue, as they would fill Redis.

Requeueing such a job, in the dashboard for instance, runs the handler once more.
"""

import hashlib
from collections.abc import Sequence

import redis
from redis.client import Pipeline
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure
from rq.results import Result
from rq.serializers import JSONSerializer
from sqlalchemy import Connection

from ingest.errors import QueueUnavailable
from ingest.queue.queues import QUEUES, RUNS_JOB
from ingest.queue.redis_client import queue
from workers.execution.enqueue import MARGIN
from workers.ledger import finished_runs
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.ledger.finished_runs import DeadRun
from workers.resources import Resources

DEAD_JOB = "dead-"
CHUNK = 200
LONGEST_TRACEBACK = 8000
"""Characters of its end that RQ shows; the ledger has all of it."""


def publish_dead_letters(resources: Resources) -> int:
    """Make failed jobs of dead runs that have none yet, and return the number of runs."""
    dead = read_once(resources.engine, lambda ledger: finished_runs.unpublished_dead(ledger, DEAD_JOB, CHUNK))
    if not dead:
        return 0
    try:
        with resources.connection.pipeline(transaction=True) as pipe:
            for run in dead:
                _publish(resources, run, pipe)
            pipe.execute()
    except redis.RedisError as error:
        raise QueueUnavailable(f"dead letters cannot be published: {type(error).__name__}") from error

    def mark(ledger: Connection) -> list[str]:
        return [job_id(run) for run in dead if not finished_runs.mark_published(ledger, run, job_id(run))]

    trim_failed_jobs(resources)
    reopened = run_in_transaction(resources.engine, mark)
    try:
        withdraw(resources.connection, reopened)
    except redis.RedisError as error:
        raise QueueUnavailable(f"dead letters cannot be withdrawn: {type(error).__name__}") from error
    return len(dead)


def trim_failed_jobs(resources: Resources) -> None:
    """Delete the oldest failed jobs of each queue beyond FAILED_JOBS_SHOWN, whatever they failed of."""
    connection, most = resources.connection, resources.settings.failed_jobs_shown
    registries = [queue(name, connection).failed_job_registry for name in QUEUES]
    try:
        with connection.pipeline(transaction=False) as pipe:
            for each in registries:
                pipe.zrange(each.key, 0, -most - 1)
            surplus = pipe.execute()
        with connection.pipeline(transaction=False) as pipe:
            for each, job_ids in zip(registries, surplus, strict=True):
                for job_id in map(bytes.decode, job_ids):
                    pipe.delete(Job.key_for(job_id), Result.get_key(job_id))  # type: ignore[no-untyped-call]
                    pipe.zrem(each.key, job_id)
            pipe.execute()
    except redis.RedisError as error:
        raise QueueUnavailable(f"failed jobs cannot be trimmed: {type(error).__name__}") from error


def withdraw(connection: redis.Redis, job_ids: Sequence[str]) -> None:
    """Delete the failed jobs of runs that are not dead any more; other jobs, and requeued ones, stay.

    Raises RedisError.
    """
    for some in chunks([job_id for job_id in job_ids if job_id.startswith(DEAD_JOB)], CHUNK):
        for job in Job.fetch_many(some, connection=connection, serializer=JSONSerializer):
            if job is not None and job.get_status(refresh=False) is JobStatus.FAILED:
                job.delete()


def job_id(run: DeadRun) -> str:
    """Return the id of a dead run's failed job: one job a run and attempt, however often it is published."""
    # A handler may have any name, a job may not.
    handler = hashlib.sha256(run.handler.encode()).hexdigest()[:8]
    return f"{DEAD_JOB}{run.delivery_id}-{run.attempts}-{handler}"


def _publish(resources: Resources, run: DeadRun, pipe: Pipeline) -> None:
    settings = resources.settings
    target = queue(run.queue, resources.connection)
    job = target.create_job(
        RUNS_JOB,
        args=[run.handler, [[run.delivery_id, run.attempts + 1]]],
        job_id=job_id(run),
        description=f"{run.handler}: {run.event or run.kind} {run.session_id or run.delivery_id[:12]}",
        timeout=int((settings.handler_timeout + MARGIN).total_seconds()),
        result_ttl=int(settings.finished_jobs_kept.total_seconds()),
        failure_ttl=int(settings.failed_jobs_kept.total_seconds()),
        status=JobStatus.FAILED,
    )
    job.started_at, job.ended_at = run.started_at, run.finished_at
    job.save(pipeline=pipe)
    record_job_failure(job, (run.traceback or run.error or "")[-LONGEST_TRACEBACK:], pipe)
    pipe.sadd(target.redis_queues_keys, target.key)
