"""Dead letters: a run that was given up also stands among RQ's failed jobs, with its traceback.

Putting such a job back on its queue, in the dashboard say, makes the run once more.
"""

import hashlib
from collections.abc import Sequence

import redis
from redis.client import Pipeline
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure
from rq.serializers import JSONSerializer
from sqlalchemy import Connection

from ingest.errors import QueueUnavailable
from ingest.queue.queues import RUNS_JOB, queue
from workers.execution.enqueue import MARGIN
from workers.ledger import finished_runs
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.ledger.finished_runs import DeadRun
from workers.resources import Resources

DEAD_JOB = "dead-"
AT_ONCE = 200


def publish_dead_letters(equipment: Resources) -> int:
    """File the dead runs that are not among RQ's failed jobs yet, and return how many they were."""
    dead = read_once(equipment.engine, lambda ledger: finished_runs.unpublished_dead(ledger, DEAD_JOB, AT_ONCE))
    if not dead:
        return 0
    try:
        with equipment.connection.pipeline(transaction=True) as pipe:
            for run in dead:
                _file(equipment, run, pipe)
            pipe.execute()
    except redis.RedisError as error:
        raise QueueUnavailable(f"dead letters cannot be filed: {type(error).__name__}") from error

    def mark(ledger: Connection) -> list[str]:
        return [job_id(run) for run in dead if not finished_runs.mark_published(ledger, run, job_id(run))]

    taken_up = run_in_transaction(equipment.engine, mark)
    try:
        withdraw(equipment.connection, taken_up)
    except redis.RedisError as error:
        raise QueueUnavailable(f"dead letters cannot be taken back: {type(error).__name__}") from error
    return len(dead)


def withdraw(connection: redis.Redis, job_ids: Sequence[str]) -> None:
    """Remove the failed jobs of runs that are not dead any more; other jobs, and those put back on a queue, stay.

    Raises RedisError if that cannot be done now.
    """
    for some in chunks([job_id for job_id in job_ids if job_id.startswith(DEAD_JOB)], AT_ONCE):
        for job in Job.fetch_many(some, connection=connection, serializer=JSONSerializer):
            if job is not None and job.get_status(refresh=False) is JobStatus.FAILED:
                job.delete()


def job_id(run: DeadRun) -> str:
    """Name the failed job of a dead run: filing it twice gives one, and that of another handler is another one."""
    # A handler may have any name, a job may not.
    handler = hashlib.sha256(run.handler.encode()).hexdigest()[:8]
    return f"{DEAD_JOB}{run.delivery_id}-{run.attempts}-{handler}"


def _file(equipment: Resources, run: DeadRun, pipe: Pipeline) -> None:
    settings = equipment.settings
    target = queue(run.queue, equipment.connection)
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
    job.save(pipeline=pipe)
    record_job_failure(job, run.traceback or run.error or "", pipe)
    pipe.sadd(target.redis_queues_keys, target.key)
