"""The depth and age of queues, and what is known while Redis is away."""

import time
from dataclasses import replace

from ingest.queue.process_registry import ProcessRecord, ProcessRegistry, ProcessType
from ingest.queue.queues import BATCH_JOB, QUEUES
from ingest.queue.redis_client import connect_redis, queue
from workers.observability import work_metrics
from workers.observability.queue_metrics import RedisCollector
from workers.observability.redis_metrics import SharedCounts


def test_queues_are_counted_and_the_next_job_has_an_age(valkey, samples):
    for _ in range(2):
        queue("urgent", valkey).enqueue(BATCH_JOB, "b1")
    job_id = queue("urgent", valkey).job_ids[0]
    valkey.hset(f"rq:job:{job_id}", "enqueued_at", "2025-06-12T12:00:00.000000Z")
    numbers = samples(RedisCollector(valkey))
    assert numbers["webhooks_redis_up",] == 1
    assert {name: numbers["webhooks_queue_jobs", name] for name in QUEUES} == dict.fromkeys(QUEUES, 0) | {"urgent": 2}
    assert numbers["webhooks_queue_oldest_seconds", "urgent"] > 86_400
    assert numbers["webhooks_queue_oldest_seconds", "other"] == 0


def test_a_job_without_a_time_has_no_age(valkey, samples):
    valkey.rpush(queue("other", valkey).key, "unknown")
    assert samples(RedisCollector(valkey))["webhooks_queue_oldest_seconds", "other"] == 0


def test_processes_have_a_heartbeat_and_queues_their_workers(valkey, samples):
    before = time.time() - 1
    worker = ProcessRecord.of_this_process(ProcessType.WORK, queues=("urgent", "of another version"))
    clock = ProcessRecord.of_this_process(ProcessType.CLOCK)
    for record in (worker, replace(worker, id="other:1", queues=("urgent", "cdrs"))):
        ProcessRegistry(valkey).beat(record)
    ProcessRegistry(valkey).stop(clock)
    numbers = samples(RedisCollector(valkey))
    alive = {name: numbers["webhooks_processes_alive", name] for name in ProcessType}
    assert alive == {"serve": 0, "work": 2, "clock": 0}
    assert {name: numbers["webhooks_queue_workers", name] for name in QUEUES} == {
        "urgent": 2,
        "sessions": 0,
        "cdrs": 1,
        "other": 0,
        "background": 0,
    }
    for name in ("work", "clock"):
        assert numbers["webhooks_heartbeat_timestamp_seconds", name] > before
    assert ("webhooks_heartbeat_timestamp_seconds", "serve") not in numbers
    assert "other:1" not in str(numbers)  # names of processes are not bounded


def test_what_processes_have_counted_is_served(valkey, samples, monkeypatch):
    monkeypatch.setattr(work_metrics, "COUNTS", SharedCounts())
    work_metrics.count_pushes("fcm", "sent")
    work_metrics.flush(valkey)
    assert samples(RedisCollector(valkey))["webhooks_pushes_total", "fcm", "sent"] == 1


def test_without_redis_that_is_all_there_is(samples):
    assert samples(RedisCollector(connect_redis("unix:///nowhere"))) == {("webhooks_redis_up",): 0}
