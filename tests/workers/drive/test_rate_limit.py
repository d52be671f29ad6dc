"""All processes count their calls together, or each counts its own while Redis is away."""

import multiprocessing
from datetime import UTC, datetime, timedelta

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from structlog.testing import capture_logs

from workers.drive.rate_limit import RateLimiter

ZERO = timedelta()


@pytest.fixture
def limiter(clock):
    def make(connection, per_minute=5, per_day=1000):
        return RateLimiter(connection, per_minute=per_minute, per_day=per_day, now=clock.now)

    return make


@pytest.fixture
def outage(monkeypatch):
    """Let the shared counter fail while the context is open."""

    def refuse(*_args, **_options):
        raise redis.ConnectionError

    def begin():
        context = monkeypatch.context()
        patch = context.__enter__()
        patch.setattr("limits.storage.RedisStorage.incr", refuse)
        return lambda: context.__exit__(None, None, None)

    return begin


def unreachable():
    """Return a connection to a Redis that does not exist."""
    return redis.Redis(port=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))


def test_each_minute_allows_so_many_calls(limiter, clock, valkey):
    ours = limiter(valkey)
    for _ in range(3):
        assert [ours.acquire() for _ in range(5)] == [ZERO] * 5
        wait = ours.acquire()
        assert wait > ZERO
        clock.sleep(wait.total_seconds())
    assert clock.now() == datetime(2025, 6, 12, 10, 59, 1, tzinfo=UTC)


def test_a_call_that_waits_is_logged_once_a_window(limiter, clock, valkey):
    ours = limiter(valkey, per_minute=1)
    with capture_logs() as logs:
        for _ in range(3):
            ours.acquire()
        clock.sleep(21)
        for _ in range(3):
            ours.acquire()
    assert [(line["event"], line["seconds"]) for line in logs] == [
        ("drive.rate_limited", 21),
        ("drive.rate_limited", 60),
    ]


def test_several_limiters_share_a_minute(limiter, valkey, valkey_url):
    with redis.Redis.from_url(valkey_url) as second:
        ours, theirs = limiter(valkey), limiter(second)
        waits = [each.acquire() for _ in range(4) for each in (ours, theirs)]
    assert waits.count(ZERO) == 5


def test_limiters_with_other_limits_share_the_count(limiter, valkey):
    small, large = limiter(valkey, per_minute=3), limiter(valkey, per_minute=5)
    assert [small.acquire() for _ in range(3)] == [large.acquire() for _ in range(2)] + [ZERO]
    assert small.acquire() > ZERO
    assert large.acquire() > ZERO


def test_a_day_allows_so_many_calls_and_does_not_count_those_that_the_minute_refused(limiter, clock, valkey):
    ours = limiter(valkey, per_minute=3, per_day=5)
    allowed = 0
    while (wait := ours.acquire()) < timedelta(hours=1):
        allowed += not wait
        clock.sleep(wait.total_seconds())
    assert allowed == 5
    clock.sleep(wait.total_seconds())
    assert clock.now() == datetime(2025, 6, 13, 0, 0, 1, tzinfo=UTC)
    assert ours.acquire() == ZERO


def test_calls_that_the_minute_refused_do_not_use_up_the_day(limiter, clock, valkey):
    ours = limiter(valkey, per_minute=2, per_day=6)
    for _ in range(3):
        assert [ours.acquire() for _ in range(2)] == [ZERO] * 2
        assert all(ours.acquire() > ZERO for _ in range(10))
        clock.sleep(60)
    assert ours.acquire() > timedelta(hours=1)


def test_the_counters_expire_in_redis(limiter, valkey):
    ours = limiter(valkey)
    ours.acquire()
    ours.block_this_minute()
    keys = valkey.plain.keys("webhooks:drive:*")
    assert len(keys) == 3
    assert all(0 < valkey.plain.ttl(key) <= 86_460 for key in keys)


def test_after_a_429_no_process_calls_before_the_next_minute(limiter, clock, valkey):
    ours, theirs = limiter(valkey), limiter(valkey)
    ours.block_this_minute()
    assert ours.acquire() == theirs.acquire() == timedelta(seconds=21)
    clock.sleep(21)
    assert ours.acquire() == theirs.acquire() == ZERO


def test_after_a_429_a_process_whose_clock_is_behind_stops_too(limiter, clock, valkey):
    clock.sleep(20)
    limiter(valkey).block_this_minute()
    clock.elapsed = 19
    assert limiter(valkey).acquire() > ZERO


def test_after_a_429_a_clock_that_jumps_back_does_not_block_for_long(limiter, clock, valkey):
    ours = limiter(valkey)
    ours.block_this_minute()
    clock.elapsed = -3600
    assert ours.acquire() == limiter(valkey).acquire() == ZERO


def test_a_429_while_redis_is_away_blocks_this_process_even_when_redis_is_back(limiter, clock, valkey, outage):
    ours, theirs = limiter(valkey), limiter(valkey)
    end = outage()
    ours.block_this_minute()
    end()
    assert ours.acquire() == timedelta(seconds=21)
    assert theirs.acquire() == ZERO


@pytest.mark.parametrize("connection", [None, unreachable()])
def test_without_redis_a_process_allows_itself_a_twentieth(limiter, clock, connection):
    ours = limiter(connection, per_minute=60)
    assert [ours.acquire() for _ in range(4)] == [ZERO, ZERO, ZERO, timedelta(seconds=21)]
    clock.sleep(21)
    assert ours.acquire() == ZERO
    ours.block_this_minute()
    assert ours.acquire() > ZERO


def test_without_redis_the_day_has_a_limit_too(limiter, clock):
    ours = limiter(None, per_minute=60, per_day=80)
    assert [ours.acquire() for _ in range(3)] == [ZERO] * 3
    clock.sleep(60)
    assert ours.acquire() == ZERO
    assert ours.acquire() > timedelta(hours=1)


def test_an_outage_of_redis_is_logged_once(limiter):
    ours = limiter(unreachable(), per_minute=60)
    with capture_logs() as logs:
        for _ in range(3):
            ours.acquire()
    assert [line["event"] for line in logs].count("drive.rate_limit_local") == 1


def test_during_an_outage_redis_is_not_tried_for_each_call(limiter, valkey, outage):
    ours = limiter(valkey, per_minute=60)
    end = outage()
    ours.acquire()
    end()
    ours.acquire()
    assert valkey.plain.keys("webhooks:drive:*") == []


def test_after_an_outage_the_count_is_shared_again(limiter, valkey, outage, monkeypatch):
    monkeypatch.setattr("workers.drive.rate_limit.REDIS_RETRY_AFTER", 0)
    ours = limiter(valkey, per_minute=60)
    end = outage()
    ours.acquire()
    end()
    with capture_logs() as logs:
        assert ours.acquire() == ZERO
    assert [line["event"] for line in logs] == ["drive.rate_limit_shared"]
    assert valkey.plain.keys("webhooks:drive:*:minute:*")


def _call_many_times(url, allowed):
    moment = datetime(2025, 6, 12, 10, 56, 40, tzinfo=UTC)
    with redis.Redis.from_url(url) as connection:
        limiter = RateLimiter(connection, per_minute=300, per_day=1_000_000, now=lambda: moment)
        allowed.put(sum(not limiter.acquire() for _ in range(250)))


def test_two_processes_at_once_do_not_exceed_the_limit(valkey_url):
    context = multiprocessing.get_context("spawn")
    allowed = context.Queue()
    processes = [context.Process(target=_call_many_times, args=(valkey_url, allowed)) for _ in range(2)]
    for process in processes:
        process.start()
    assert sum(allowed.get(timeout=60) for _ in processes) == 300
    for process in processes:
        process.join()


def test_installations_with_different_keys_of_the_api_do_not_slow_each_other(valkey, clock):
    limits = {"per_minute": 1, "per_day": 100, "now": clock.now}
    ours, theirs = (RateLimiter(valkey, account=account, **limits) for account in ("one", "two"))
    ours.block_this_minute()
    assert theirs.acquire() == ZERO
    assert RateLimiter(valkey, account="one", **limits).acquire() > ZERO
