"""The circuit breaker: closed, open, and half open."""

from datetime import timedelta

import pytest

from workers.resilience.circuit_breaker import FAILURES, LONGEST_PAUSE, CircuitBreaker


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(pause=timedelta(seconds=5), clock=clock)


def test_it_stays_closed_while_a_success_interrupts_the_failures(breaker):
    for _ in range(3):
        for _ in range(FAILURES - 1):
            breaker.record_failure()
        assert breaker.permits(20, in_flight=3) == 20
        breaker.record_success()


def test_failures_in_a_row_open_it_and_after_a_pause_one_trial_is_permitted(breaker, clock):
    for _ in range(FAILURES):
        breaker.record_failure()
    assert breaker.is_open
    assert breaker.permits(20, in_flight=0) == 0
    clock.now = 5
    assert breaker.permits(20, in_flight=0) == 1
    assert breaker.permits(20, in_flight=1) == 0
    assert breaker.permits(0, in_flight=0) == 0


def test_the_trial_opens_or_closes_it(breaker, clock):
    for _ in range(FAILURES):
        breaker.record_failure()
    clock.now = 5
    breaker.record_failure()
    assert breaker.permits(20, in_flight=0) == 0
    clock.now = 10
    breaker.record_success()
    assert breaker.permits(20, in_flight=0) == 20


@pytest.mark.parametrize(("after", "pause"), [(timedelta(seconds=30), 30), (timedelta(days=1), LONGEST_PAUSE.seconds)])
def test_a_longer_pause_is_granted_up_to_the_longest(breaker, clock, after, pause):
    for _ in range(FAILURES):
        breaker.record_failure(after)
    clock.now = pause - 1
    assert breaker.permits(20, in_flight=0) == 0
    clock.now = pause
    assert breaker.permits(20, in_flight=0) == 1


def test_with_patience_it_opens_only_when_nothing_has_succeeded_for_so_long(clock):
    breaker = CircuitBreaker(pause=timedelta(seconds=5), patience=timedelta(seconds=2), clock=clock)
    for _ in range(9 * FAILURES):
        breaker.record_failure()
    assert not breaker.is_open
    assert breaker.permits(20, in_flight=0) == 20
    clock.now = 2
    assert breaker.is_open
    assert breaker.permits(20, in_flight=0) == 0
    clock.now = 5
    assert breaker.permits(20, in_flight=0) == 1
    breaker.record_success()
    assert not breaker.is_open
