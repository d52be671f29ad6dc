"""What a job in Redis can make a worker call."""

from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.job import Callback
from rq.serializers import JSONSerializer

from ingest.queue.queues import BATCH_JOB, RUNS_JOB
from ingest.queue.redis_client import queue
from workers.execution.job_allowlist import AllowlistedJob
from workers.execution.rq_worker import PreloadedWorker


def work_off(connection: redis.Redis) -> None:
    worker = PreloadedWorker(
        [queue("other", connection)], connection=connection, serializer=JSONSerializer, job_class=AllowlistedJob
    )
    worker.work(burst=True, logging_level=None)


def outcome(connection: redis.Redis, job_id: str) -> tuple[str | None, str]:
    job = AllowlistedJob.fetch(job_id, connection=connection, serializer=JSONSerializer)
    result = job.latest_result()
    return job.get_status(), (result.exc_string or "") if result else ""


@pytest.mark.parametrize(
    "function", ["os.mkdir", "workers.execution.jobs.process_batch", "builtins.exec", "", "workers.execution.jobs"]
)
def test_a_function_that_is_not_allowed_is_not_called(valkey: redis.Redis, tmp_path: Path, function: str) -> None:
    made = tmp_path / "made"
    job = queue("other", valkey).enqueue_call(function or "x", args=[str(made)])
    if not function:
        job.func_name = ""
        job.save()
    work_off(valkey)
    status, why = outcome(valkey, job.id)
    assert status == "failed"
    assert "JobNotAllowed" in why
    assert not made.exists()


def test_a_method_of_a_value_is_not_called(valkey: redis.Redis) -> None:
    job = AllowlistedJob.create(BATCH_JOB, args=["none"], connection=valkey, serializer=JSONSerializer)
    job.instance = "a text"
    job.save()
    queue("other", valkey).enqueue_job(job)
    work_off(valkey)
    status, why = outcome(valkey, job.id)
    assert (status, "JobNotAllowed" in why) == ("failed", True)


@pytest.mark.parametrize("when", ["on_success", "on_failure", "on_stopped"])
def test_callbacks_are_not_called(valkey: redis.Redis, when: str) -> None:
    job = Queue("other", connection=valkey, serializer=JSONSerializer).enqueue_call(
        "os.getpid", **{when: Callback("os.abort")}
    )
    found = AllowlistedJob.fetch(job.id, connection=valkey, serializer=JSONSerializer)
    assert (found.success_callback, found.failure_callback, found.stopped_callback) == (None, None, None)
    work_off(valkey)
    assert outcome(valkey, job.id)[0] == "failed"


@pytest.mark.parametrize("function", [BATCH_JOB, RUNS_JOB])
def test_the_allowed_functions_exist(valkey: redis.Redis, function: str) -> None:
    job = AllowlistedJob.create(function, connection=valkey, serializer=JSONSerializer)
    assert job.func.__name__ == function.rpartition(".")[2]
