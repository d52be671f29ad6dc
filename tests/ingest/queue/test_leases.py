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
from ingest.queue.queues import connect_redis, queue

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
    """Look once a second; what the last look says."""
    for _ in range(seconds):
        clock.now += 1
        standing = watch.poll({"job": "sessions"})["job"]
    return standing


def test_the_counter_beats_while_the_job_is_worked_on(valkey, eventually):
    with lease(valkey, "job", beat=BEAT):
        assert int(valkey.get(KEY)) >= 1
        eventually(lambda: int(valkey.get(KEY)) >= 4)
    assert valkey.get(KEY) is None


def test_a_counter_left_behind_goes_by_itself(valkey):
    with lease(valkey, "job"):
        assert 0 < valkey.ttl(KEY) <= 600


def test_an_unexpected_exception_is_reported_as_a_death(valkey, watch):
    with pytest.raises(ZeroDivisionError), lease(valkey, "job", beat=BEAT):
        raise ZeroDivisionError
    assert watch.poll({"job": "sessions"})["job"] is JobState.CRASHED


def test_a_death_that_is_known_is_told_at_once(valkey, watch):
    with lease(valkey, "job"):
        watch.poll({"job": "sessions"})
        report_crash(valkey, "job")
        assert watch.poll({"job": "sessions"})["job"] is JobState.CRASHED


def test_the_death_of_a_job_that_is_over_is_not_reported(valkey):
    report_crash(valkey, "job")
    assert not valkey.exists(KEY)


@pytest.mark.parametrize("reason", [QueueUnavailable("away"), redis.ConnectionError(), SystemExit()])
def test_a_job_that_is_handed_back_takes_its_counter_away(valkey, reason):
    with pytest.raises(type(reason)), lease(valkey, "job", beat=BEAT):
        raise reason
    assert valkey.get(KEY) is None


def test_an_acknowledgement_may_take_the_counter_first(valkey):
    with lease(valkey, "job"):
        valkey.delete(KEY)
    assert valkey.get(KEY) is None


def test_a_flushed_redis_hears_the_next_beat(valkey, eventually):
    with lease(valkey, "job", beat=BEAT):
        valkey.flushall()
        eventually(lambda: valkey.get(KEY) is not None)


def test_a_job_does_not_notice_that_redis_goes_and_comes_back(stoppable_valkey, eventually, monkeypatch):
    monkeypatch.setattr("ingest.queue.leases.LEAVE_TIMEOUT", timedelta(seconds=0.1))
    with lease(connect_redis(stoppable_valkey.url), "job", beat=BEAT):
        stoppable_valkey.stop()
    stoppable_valkey.start()
    eventually(lambda: "lease" not in [thread.name for thread in threading.enumerate()])


def test_a_job_begins_and_ends_without_redis(monkeypatch, eventually):
    monkeypatch.setattr("ingest.queue.leases.LEAVE_TIMEOUT", timedelta(seconds=0.1))
    monkeypatch.setattr("ingest.queue.leases.COUNTER_KEPT", timedelta(seconds=0.1))
    with lease(connect_redis("redis://127.0.0.1:1"), "job", beat=BEAT):
        pass
    eventually(lambda: "lease" not in [thread.name for thread in threading.enumerate()])


def test_a_counter_is_taken_away_even_if_redis_was_away_at_the_end(valkey, valkey_url, monkeypatch):
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


def test_nothing_is_asked_about_no_jobs():
    assert LeaseMonitor(connect_redis("redis://127.0.0.1:1")).poll({}) == {}


def test_a_job_on_its_queue_is_queued_however_long(valkey, watch, clock):
    queue("sessions", valkey).enqueue("builtins.len", "word", job_id="job")
    assert seconds_pass(watch, clock, 60) is JobState.QUEUED


def test_a_job_is_running_while_its_counter_moves(valkey, watch, clock):
    for _ in range(20):
        valkey.incr(KEY)
        assert seconds_pass(watch, clock, 1) is JobState.RUNNING


def test_a_counter_that_stands_still_is_a_death(valkey, watch, clock):
    valkey.incr(KEY)
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.CRASHED


def test_a_job_that_is_nowhere_is_gone_after_the_grace(watch, clock):
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.LOST


def test_a_job_that_was_just_taken_has_the_grace_to_begin(valkey, watch, clock):
    queue("sessions", valkey).enqueue("builtins.len", "word", job_id="job")
    seconds_pass(watch, clock, 1)
    valkey.flushall()
    assert seconds_pass(watch, clock, 4) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.LOST


def test_a_job_that_rq_has_started_has_longer_to_begin(valkey, watch, clock):
    registry = queue("sessions", valkey).started_job_registry
    valkey.zadd(registry.key, {"job:execution": time.time() + 240})
    seconds_pass(watch, clock, 1)
    assert seconds_pass(watch, clock, 6) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.LOST


def test_a_job_that_was_handed_back_is_gone_and_not_dead(valkey, watch, clock):
    valkey.incr(KEY)
    seconds_pass(watch, clock, 3)
    valkey.delete(KEY)
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.LOST


def test_a_watcher_held_up_itself_does_not_take_that_for_a_death(valkey, watch, clock):
    valkey.incr(KEY)
    watch.poll({"job": "sessions"})
    clock.now += 1000
    assert watch.poll({"job": "sessions"})["job"] is JobState.RUNNING


def test_an_outage_of_redis_is_nobodys_death(stoppable_valkey, clock):
    watch = LeaseMonitor(connect_redis(stoppable_valkey.url), clock=clock)
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING
    stoppable_valkey.stop()
    with pytest.raises(QueueUnavailable):
        watch.poll({"job": "sessions"})
    stoppable_valkey.start()
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING
    assert seconds_pass(watch, clock, 1) is JobState.LOST


def test_only_jobs_asked_about_are_remembered(watch, clock):
    seconds_pass(watch, clock, 5)
    watch.poll({"another": "urgent"})
    assert seconds_pass(watch, clock, 5) is JobState.RUNNING


def test_jobs_of_several_queues_are_told_apart(valkey, watch):
    queue("urgent", valkey).enqueue("builtins.len", "word", job_id="first")
    queue("cdrs", valkey).enqueue("builtins.len", "word", job_id="second")
    valkey.incr(lease_key("third"))
    assert watch.poll({"first": "urgent", "second": "cdrs", "third": "cdrs"}) == {
        "first": JobState.QUEUED,
        "second": JobState.QUEUED,
        "third": JobState.RUNNING,
    }


def test_a_stock_worker_that_took_a_job_leaves_it_gone(valkey, watch, clock):
    sessions = queue("sessions", valkey)
    sessions.enqueue("builtins.len", "word", job_id="job")
    assert seconds_pass(watch, clock, 1) is JobState.QUEUED
    SimpleWorker([sessions], connection=valkey, serializer=JSONSerializer).work(burst=True)
    assert seconds_pass(watch, clock, 5) is JobState.LOST


HOLDER = """
import sys, time, redis
from datetime import timedelta
from ingest.queue.leases import lease
with lease(redis.Redis.from_url(sys.argv[1]), "job", beat=timedelta(milliseconds=20)):
    time.sleep(60)
"""


def test_a_killed_process_is_told_from_one_that_works(valkey, valkey_url, eventually):
    watch = LeaseMonitor(valkey, grace=timedelta(seconds=1.5))
    with subprocess.Popen([sys.executable, "-c", HOLDER, valkey_url]) as process:
        eventually(lambda: valkey.get(KEY))
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert watch.poll({"job": "sessions"})["job"] is JobState.RUNNING
        process.kill()
        eventually(lambda: watch.poll({"job": "sessions"})["job"] is JobState.CRASHED)
