"""Patches rq-dashboard 0.9 to show our queues: the module for its option `-c`.

`rq-dashboard -c workers.dashboard.rq_dashboard_patch -u $REDIS_URL` is it alone, without a login.
"""

from collections.abc import Hashable
from functools import partial
from typing import Any

import redis
import rq_dashboard.web
from rq import Queue, Worker, requeue_job
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from workers.dashboard.queue_client import client_of

SESSIONS = "sessions"


class JsonJob(Job):
    """A job that is always decoded as JSON.

    rq-dashboard fetches some without a serializer, and RQ would unpickle what others may have written to Redis.
    """

    def __init__(self, id: str | None = None, connection: redis.Redis | None = None, serializer: object = None) -> None:  # noqa: A002, ARG002 - RQ's names
        super().__init__(id, connection, JSONSerializer)


class JsonWorker(Worker):
    """A worker whose jobs are decoded as JSON.

    rq-dashboard lists all workers without a serializer, and would fail to unpickle a running job.
    """

    @classmethod
    def all(cls, connection: redis.Redis | None = None) -> list[BaseWorker]:  # type: ignore[override]  # all it is asked
        """List all workers."""
        return super().all(connection=connection, serializer=JSONSerializer)


class EmptiableQueue(Queue):
    """A queue that can be emptied in a namespace: RQ's script makes up the keys of jobs by itself.

    Without a name it is `sessions`: we have no queue `default`.
    """

    def __init__(self, name: str = SESSIONS, **options: Any) -> None:
        super().__init__(name, **options)

    def empty(self) -> int:
        """Delete all jobs, and return how many."""
        job_ids = self.job_ids
        for job_id in job_ids:
            self.connection.lrem(self.key, 1, job_id)
            self.connection.delete(JsonJob.key_for(job_id))
        return len(job_ids)


def from_url(url: str, **_options: Hashable) -> tuple[None, redis.Redis]:
    """Return the client in the shape of redis_sentinel_url.connect, which this replaces."""
    return None, client_of(url)


rq_dashboard.web.config.serializer = JSONSerializer
rq_dashboard.web.Job = JsonJob
rq_dashboard.web.Queue = EmptiableQueue
rq_dashboard.web.requeue_job = partial(requeue_job, serializer=JSONSerializer)
rq_dashboard.web.Worker = JsonWorker
rq_dashboard.web.from_url = from_url
