"""The calls that we allow ourselves are counted by all processes together, or by each alone when Redis is away."""

import multiprocessing
from datetime import UTC, datetime, timedelta

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from structlog.testing import capture_logs

from workers.drive.rate_limit import RateLimiter

NONE = timedelta()


@pytest.fixture
def budget(clock):
    def make(connection, per_minute=5, per_day=1000):
        return RateLimiter(connection, per_minute=per_minute, per_day=per_day, now=clock.now)

    return make


def away():
    """A connection to a Redis that is not there."""
    return redis.Redis(port=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))


def test_a_minute_has_so_many_calls_and_the_next_as_many(budget, clock, valkey):
    ours = budget(valkey)
    for _ in range(3):
        assert [ours.acquire() for _ in range(5)] == [NONE] * 5
        wait = ours.acquire()
        assert wait > NONE
        clock.sleep(wait.total_seconds())
    assert clock.now() == datetime(2025, 6, 12, 10, 59, 1, tzinfo=UTC)


def test_whoever_looks_is_told_once_why_nothing_moves(budget, clock, valkey):
    ours = budget(valkey, per_minute=1)
    with capture_logs() as logs:
        for _ in range(3):
            ours.acquire()
        clock.sleep(21)
        for _ in range(3):
            ours.acquire()
    assert [(line["event"], line["seconds"]) for line in logs] == [("drive.calls_held", 21), ("drive.calls_held", 60)]


def test_several_share_a_minute(budget, valkey, valkey_url):
    with redis.Redis.from_url(valkey_url) as second:
        ours, theirs = budget(valkey), budget(second)
        given = [each.acquire() for _ in range(4) for each in (ours, theirs)]
    assert given.count(NONE) == 5


def test_a_day_has_so_many_calls_and_those_that_were_refused_do_not_count(budget, clock, valkey):
    ours = budget(valkey, per_minute=3, per_day=5)
    given = 0
    while (wait := ours.acquire()) < timedelta(hours=1):
        given += not wait
        clock.sleep(wait.total_seconds())
    assert given == 5
    clock.sleep(wait.total_seconds())
    assert clock.now() == datetime(2025, 6, 13, 0, 0, 1, tzinfo=UTC)
    assert ours.acquire() == NONE


def test_what_it_counts_with_does_not_stay_in_redis(budget, valkey):
    ours = budget(valkey)
    ours.acquire()
    ours.block_this_minute()
    keys = valkey.keys("webhooks:drive:*")
    assert len(keys) == 3
    assert all(0 < valkey.ttl(key) <= 86_460 for key in keys)


def test_when_one_is_told_to_stop_all_stop_until_the_next_minute(budget, clock, valkey):
    ours, theirs = budget(valkey), budget(valkey)
    ours.block_this_minute()
    assert ours.acquire() == theirs.acquire() == timedelta(seconds=21)
    clock.sleep(21)
    assert ours.acquire() == theirs.acquire() == NONE


def test_one_whose_clock_is_behind_stops_too(budget, clock, valkey):
    clock.sleep(20)
    budget(valkey).block_this_minute()
    clock.elapsed = 19
    assert budget(valkey).acquire() > NONE


def test_a_clock_that_jumps_back_does_not_stop_it_for_long(budget, clock, valkey):
    ours = budget(valkey)
    ours.block_this_minute()
    clock.elapsed = -3600
    assert ours.acquire() == budget(valkey).acquire() == NONE


@pytest.mark.parametrize("connection", [None, away()])
def test_alone_it_allows_itself_a_twentieth(budget, clock, connection):
    ours = budget(connection, per_minute=60)
    assert [ours.acquire() for _ in range(4)] == [NONE, NONE, NONE, timedelta(seconds=21)]
    clock.sleep(21)
    assert ours.acquire() == NONE
    ours.block_this_minute()
    assert ours.acquire() > NONE


def test_alone_a_day_has_an_end_too(budget, clock):
    ours = budget(None, per_minute=60, per_day=80)
    assert [ours.acquire() for _ in range(3)] == [NONE] * 3
    clock.sleep(60)
    assert ours.acquire() == NONE
    assert ours.acquire() > timedelta(hours=1)


def test_when_redis_goes_it_says_so_once(budget):
    ours = budget(away(), per_minute=60)
    with capture_logs() as logs:
        for _ in range(3):
            ours.acquire()
    assert [line["event"] for line in logs].count("drive.budget_alone") == 1


def test_a_redis_that_is_away_is_not_asked_for_each_call(budget, valkey, monkeypatch):
    ours = budget(valkey, per_minute=60)
    with monkeypatch.context() as patch:
        patch.setattr(valkey, "pipeline", away().pipeline)
        ours.acquire()
    ours.acquire()
    assert valkey.keys("webhooks:drive:*") == []


def test_when_redis_comes_back_it_is_shared_again(budget, valkey, monkeypatch):
    monkeypatch.setattr("workers.drive.rate_limit.AWAY", 0)
    ours = budget(valkey, per_minute=60)
    with monkeypatch.context() as patch:
        patch.setattr(valkey, "pipeline", away().pipeline)
        ours.acquire()
    with capture_logs() as logs:
        assert ours.acquire() == NONE
    assert [line["event"] for line in logs] == ["drive.budget_shared"]
    assert valkey.keys("webhooks:drive:minute:*")


def _ask(url, given):
    moment = datetime(2025, 6, 12, 10, 56, 40, tzinfo=UTC)
    with redis.Redis.from_url(url) as connection:
        ours = RateLimiter(connection, per_minute=300, per_day=1_000_000, now=lambda: moment)
        given.put(sum(not ours.acquire() for _ in range(250)))


def test_two_processes_at_once_take_no_call_too_many(valkey_url):
    context = multiprocessing.get_context("spawn")
    given = context.Queue()
    processes = [context.Process(target=_ask, args=(valkey_url, given)) for _ in range(2)]
    for process in processes:
        process.start()
    assert sum(given.get(timeout=60) for _ in processes) == 300
    for process in processes:
        process.join()
