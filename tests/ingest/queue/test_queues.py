from pkgutil import resolve_name

from ingest.queue.queues import BATCH_JOB, QUEUES, RUNS_JOB


def test_urgent_is_the_first_queue():
    assert QUEUES == ("urgent", "sessions", "cdrs", "other", "background")


def test_jobs_name_functions_of_workers_that_exist():
    assert [resolve_name(job).__name__ for job in (BATCH_JOB, RUNS_JOB)] == ["work_batch", "work_runs"]
