"""Gauges of Redis: the depth and age of each queue, heartbeats, and what all processes have counted."""

from collections.abc import Iterator, Sequence
from datetime import datetime

import redis
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from rq.job import Job
from rq.utils import utcparse

from ingest.errors import QueueUnavailable
from ingest.queue.process_registry import ProcessRecord, ProcessRegistry, ProcessType
from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import queue
from ingest.wire.timestamps import utc_now
from workers.observability.ledger_metrics import gauge
from workers.observability.redis_metrics import SharedCollector
from workers.observability.work_metrics import METRICS


class RedisCollector(Collector):
    """Reads Redis for each collection: queues, processes, and what all processes have counted."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection

    def collect(self) -> Iterator[Metric]:
        """Return whether Redis answers, and its numbers if it does."""
        try:
            jobs, ages = _queues(self._connection)
            processes = ProcessRegistry(self._connection).processes()
            counted = [*SharedCollector(self._connection, METRICS).collect()]
            is_up = True
        except (redis.RedisError, QueueUnavailable):
            jobs, ages, processes, counted, is_up = {}, {}, [], [], False
        yield GaugeMetricFamily("webhooks_redis_up", "Whether Redis answers", value=is_up)
        yield gauge("webhooks_queue_jobs", "Jobs on a queue", "queue", jobs)
        yield gauge("webhooks_queue_oldest_seconds", "Age of the job that is next on a queue; 0: none", "queue", ages)
        yield from _heartbeats(processes, is_up=is_up)
        yield from counted


def _queues(connection: redis.Redis) -> tuple[dict[str, float], dict[str, float]]:
    """Return the number of jobs on each queue, and the age of the one that is next."""
    with connection.pipeline(transaction=False) as pipe:
        for name in QUEUES:
            pipe.llen(queue(name, connection).key)
            pipe.lindex(queue(name, connection).key, 0)
        answers = pipe.execute()
    jobs = dict(zip(QUEUES, map(float, answers[::2]), strict=True))
    next_jobs = dict(zip(QUEUES, answers[1::2], strict=True))
    now = utc_now()
    return jobs, {name: _age(connection, job_id, now) for name, job_id in next_jobs.items()}


def _age(connection: redis.Redis, job_id: bytes | None, now: datetime) -> float:
    enqueued_at = None if job_id is None else connection.hget(Job.key_for(job_id.decode()), "enqueued_at")
    if not isinstance(enqueued_at, bytes):
        return 0.0
    try:
        return max(0.0, (now - utcparse(enqueued_at.decode())).total_seconds())
    except ValueError:  # of a version that writes it differently
        return 0.0


def _heartbeats(processes: Sequence[ProcessRecord], *, is_up: bool) -> Iterator[Metric]:
    alive = {each.value: 0.0 for each in ProcessType} if is_up else {}
    served = dict.fromkeys(QUEUES, 0.0) if is_up else {}
    last: dict[str, float] = {}
    for each in processes:
        last[each.process] = max(each.beat_at, last.get(each.process, 0.0))
        if each.is_alive:
            alive[each.process] += 1
            for name in set(each.queues) & served.keys():
                served[name] += 1
    yield gauge("webhooks_processes_alive", "Processes that report themselves", "process", alive)
    yield gauge("webhooks_heartbeat_timestamp_seconds", "When one of a type last reported itself", "process", last)
    yield gauge("webhooks_queue_workers", "Workers that serve a queue", "queue", served)
