"""The token bucket: a burst at first, then an even rate."""

from datetime import timedelta

from workers.resilience.token_bucket import TokenBucket


def test_it_fills_evenly_up_to_a_burst() -> None:
    now = [0.0]
    bucket = TokenBucket(60, monotonic=lambda: now[0])
    assert bucket.available() == 10
    bucket.consume(10)
    assert bucket.available() == 0
    now[0] = 3.5
    assert bucket.available() == 3
    now[0] = 3600
    assert bucket.available() == 10


def test_what_is_consumed_beyond_it_delays_the_next_calls() -> None:
    now = [0.0]
    bucket = TokenBucket(60, monotonic=lambda: now[0])
    bucket.consume(15)
    now[0] = 5
    assert bucket.available() == 0
    now[0] = 6
    assert bucket.available() == 1


def test_a_low_rate_still_permits_one_call() -> None:
    assert TokenBucket(1, monotonic=lambda: 0.0).available() == 1


def test_the_rate_can_change():
    now = [0.0]
    bucket = TokenBucket(60, monotonic=lambda: now[0])
    bucket.change(600, burst=timedelta(seconds=2))
    assert bucket.available() == 10
    bucket.consume(10)
    now[0] = 1
    assert bucket.available() == 10
    now[0] = 60
    assert bucket.available() == 20
