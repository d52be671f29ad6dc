"""Counters and histograms in Redis are the sum over processes, and Prometheus parses them."""

import threading

import pytest
import redis

from ingest.queue.redis_client import connect_redis
from workers.observability.redis_metrics import KEY, SharedCollector, SharedCounts, SharedMetric

RUNS = SharedMetric("webhooks_runs", "Runs", ("handler", "outcome"))
SECONDS = SharedMetric("webhooks_run_seconds", "Time", ("handler",), (0.1, 1.0))


@pytest.fixture
def counted(valkey, samples):
    return lambda: samples(SharedCollector(valkey, (RUNS, SECONDS)))


def test_the_counts_of_all_processes_are_added(valkey, counted):
    for _ in range(2):  # two processes
        counts = SharedCounts()
        counts.increment(RUNS, "warn", "done")
        counts.increment(RUNS, "warn", "done", by=2)
        counts.increment(RUNS, 'odd "name"\n', "again")
        counts.flush(valkey)
        counts.flush(valkey)  # nothing is added twice
    assert counted() == {
        ("webhooks_runs_total", "warn", "done"): 6,
        ("webhooks_runs_total", 'odd "name"\n', "again"): 2,
    }


def test_a_histogram_has_every_bucket_and_these_are_cumulative(valkey, counted):
    counts = SharedCounts()
    for value in (0.1, 0.5, 7, -3):  # a bound is within its bucket; a clock that is behind is no error
        counts.observe(SECONDS, "warn", values=[value])
    counts.flush(valkey)
    assert counted() == {
        ("webhooks_run_seconds_bucket", "warn", "0.1"): 2,
        ("webhooks_run_seconds_bucket", "warn", "1.0"): 3,
        ("webhooks_run_seconds_bucket", "warn", "+Inf"): 4,
        ("webhooks_run_seconds_count", "warn"): 4,
        ("webhooks_run_seconds_sum", "warn"): pytest.approx(7.6),
    }


def test_what_redis_did_not_take_is_added_later(valkey, counted):
    counts = SharedCounts()
    counts.increment(RUNS, "warn", "done")
    with pytest.raises(redis.RedisError):
        counts.flush(connect_redis("unix:///nowhere"))
    counts.increment(RUNS, "warn", "done")
    counts.flush(valkey)
    assert counted()["webhooks_runs_total", "warn", "done"] == 2


def test_nothing_is_lost_while_threads_count_and_flush(valkey, counted):
    counts = SharedCounts()

    def count():
        for _ in range(200):
            counts.increment(RUNS, "warn", "done")
            counts.flush(valkey)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert counted()["webhooks_runs_total", "warn", "done"] == 800


def test_what_other_versions_wrote_is_left_out(valkey, counted):
    valkey.hset(KEY, '["webhooks_runs_total", "warn"]', 5)
    valkey.hset(KEY, '["webhooks_gone_total", "warn"]', 5)
    valkey.hset(KEY, "not JSON", 5)
    assert counted() == {}
