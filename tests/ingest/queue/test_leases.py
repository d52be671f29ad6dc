import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from ingest.errors import QueueUnavailable
from ingest.queue.batch import lease_key
from ingest.queue.leases import JobState, LeaseMonitor, lease, report_crash
from ingest.queue.redis_client import connect_redis, queue

BEAT = timedelta(milliseconds=20)
KEY = lease_key("job")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(valkey, clock):
    return LeaseMonitor(valkey, clock=clock)


def seconds_pass(watch: LeaseMonitor, clock: Clock, seconds: int) -> JobState:
    """Poll once a second and return the last state."""
    for _ in range(seconds):
        clock.now += 1
        standing = watch.poll({"job": "sessions"})["job"]
    return standing


def test_the_counter_is_incremented_while_the_job_runs(valkey, eventually):
    with lease(valkey, "job", beat=BEAT):
        assert int(valkey.get(KEY)) >= 1
        eventually(lambda: int(valkey.get(KEY)) >= 4)
    assert valkey.get(KEY) is None


def test_the_counter_of_a_killed_process_expires(valkey):
    with lease(valkey, "job"):
        assert 0 < valkey.ttl(KEY) <= 600


def test_an_unexpected_exception_is_reported_as_a_crash(valkey, watch):
    with pytest.raises(ZeroDivisionError), lease(valkey, "job", beat=BEAT):
        raise ZeroDivisionError
    assert watch.poll({"job": "sessions"})["job"] is JobState.CRASHED


def test_a_reported_crash_is_detected_at_once(valkey, watch):
    with lease(valkey, "job"):
        watch.poll({"job": "sessions"})
        report_crash(valkey, "job")
        assert watch.poll({"job": "sessions"})["job"] is JobState.CRASHED


def test_a_crash_of_an_ended_job_is_not_reported(valkey):
    report_crash(valkey, "job")
    assert not valkey.exists(KEY)


@pytest.mark.parametrize("reason", [QueueUnavailable("away"), redis.ConnectionError(), SystemExit()])
def test_a_released_job_deletes_its_counter(valkey, reason):
    with pytest.raises(type(reason)), lease(valkey, "job", beat=BEAT):
        raise reason
    assert valkey.get(KEY) is None


def test_an_acknowledgement_may_delete_the_counter_first(valkey):
    with lease(valkey, "job"):
        valkey.delete(KEY)
    assert valkey.get(KEY) is None


def test_the_next_heartbeat_reaches_a_flushed_redis(valkey, eventually):
    with lease(valkey, "job", beat=BEAT):
        valkey.flushall()
        eventually(lambda: valkey.get(KEY) is not None)


def test_a_job_survives_an_outage_of_redis(stoppable_valkey, eventually, monkeypatch):
    monkeypatch.setattr("ingest.queue.leases.RELEASE_TIMEOUT", timedelta(seconds=0.1))
    with lease(connect_redis(stoppable_valkey.url), "job", beat=BEAT):
        stoppable_valkey.stop()
    stoppable_valkey.start()
    eventually(lambda: "lease" not in [thread.name for thread in threading.enumerate()])


def test_a_job_begins_and_ends_without_redis(monkeypatch, eventually):
    monkeypatch.setattr("ingest.queue.leases.RELEASE_TIMEOUT", timedelta(seconds=0.1))
    monkeypatch.setattr("ingest.queue.leases.COUNTER_TTL", timedelta(seconds=0.1))
    with lease(connect_redis("redis://127.0.0.1:1"), "job", beat=BEAT):
        pass
    eventually(lambda: "lease" not in [thread.name for thread in threading.enumerate()])


def test_a_counter_is_deleted_even_if_redis_was_unavailable_at_the_end(valkey, valkey_url, monkeypatch):
    connection = connect_redis(valkey_url)
    answers = [redis.ConnectionError(), redis.TimeoutError()]

    def delete(*keys: str) -> int:
        if answers:
            raise answers.pop()
        return int(valkey.delete(*keys))

    monkeypatch.setattr(connection, "delete", delete)
    with lease(connection, "job", beat=BEAT):
        pass
    assert valkey.get(KEY) is None


def test_polling_no_jobs_sends_no_command():
    assert LeaseMonitor(connect_redis("redis://127.0.0.1:1")).poll({}) == {}


def test_a_job_on_its_queue_is_queued_however_long(valkey, watch, clock):
    queue("sessions", valkey).enqueue("builtins.len", "word", job_id="job")
    assert seconds_pass(watch, clock, 60) is JobState.QUEUED


def test_a_job_is_running_while_its_counter_moves(valkey, watch, clock):
    for _ in range(20):
        valkey.incr(KEY)
        assert seconds_pass(watch, clock, 1) is JobState.RUNNING


def test_a_counter_that_stands_still_is_a_crash(valkey, watch, clock):
    valkey.incr(KEY)
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.CRASHED


def test_a_job_without_queue_and_lease_is_lost_after_the_grace(watch, clock):
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.LOST


def test_a_job_that_was_just_dequeued_has_the_grace_to_start(valkey, watch, clock):
    queue("sessions", valkey).enqueue("builtins.len", "word", job_id="job")
    seconds_pass(watch, clock, 1)
    valkey.flushall()
    assert seconds_pass(watch, clock, 4) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.LOST


def test_a_job_that_rq_has_started_has_a_longer_grace(valkey, watch, clock):
    registry = queue("sessions", valkey).started_job_registry
    valkey.zadd(registry.key, {"job:execution": time.time() + 240})
    seconds_pass(watch, clock, 1)
    assert seconds_pass(watch, clock, 6) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.LOST


def test_a_released_job_is_lost_and_not_crashed(valkey, watch, clock):
    valkey.incr(KEY)
    seconds_pass(watch, clock, 3)
    valkey.delete(KEY)
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.LOST


def test_a_delayed_monitor_reports_no_crash(valkey, watch, clock):
    valkey.incr(KEY)
    watch.poll({"job": "sessions"})
    clock.now += 1000
    assert watch.poll({"job": "sessions"})["job"] is JobState.RUNNING


def test_an_outage_of_redis_is_not_a_crash(stoppable_valkey, clock):
    watch = LeaseMonitor(connect_redis(stoppable_valkey.url), clock=clock)
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING
    stoppable_valkey.stop()
    with pytest.raises(QueueUnavailable):
        watch.poll({"job": "sessions"})
    stoppable_valkey.start()
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.LOST


def test_only_polled_jobs_are_remembered(watch, clock):
    seconds_pass(watch, clock, 5)
    watch.poll({"another": "urgent"})
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING


def test_jobs_of_several_queues_are_distinguished(valkey, watch):
    queue("urgent", valkey).enqueue("builtins.len", "word", job_id="first")
    queue("cdrs", valkey).enqueue("builtins.len", "word", job_id="second")
    valkey.incr(lease_key("third"))
    assert watch.poll({"first": "urgent", "second": "cdrs", "third": "cdrs"}) == {
        "first": JobState.QUEUED,
        "second": JobState.QUEUED,
        "third": JobState.RUNNING,
    }


def test_a_job_that_a_stock_worker_ended_is_lost(valkey, watch, clock):
    sessions = queue("sessions", valkey)
    sessions.enqueue("builtins.len", "word", job_id="job")
    assert seconds_pass(watch, clock, 1) is JobState.QUEUED
    SimpleWorker([sessions], connection=valkey, serializer=JSONSerializer).work(burst=True)
    assert seconds_pass(watch, clock, 5) is JobState.LOST


HOLDER = """
import sys, time, redis
from datetime import timedelta
from ingest.queue.leases import lease
from ingest.queue.namespace import NamespacedRedis
with lease(NamespacedRedis(redis.Redis.from_url(sys.argv[1]), "test"), "job", beat=timedelta(milliseconds=20)):
    time.sleep(60)
"""


def test_a_killed_process_is_distinguished_from_a_running_one(valkey, valkey_url, eventually):
    watch = LeaseMonitor(valkey, grace=timedelta(seconds=1.5))
    with subprocess.Popen([sys.executable, "-c", HOLDER, valkey_url]) as process:
        eventually(lambda: valkey.get(KEY))
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert watch.poll({"job": "sessions"})["job"] is JobState.RUNNING
        process.kill()
        eventually(lambda: watch.poll({"job": "sessions"})["job"] is JobState.CRASHED)
