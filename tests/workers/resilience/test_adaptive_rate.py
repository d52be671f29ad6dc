"""The adaptive rate: it finds what a service allows, and leaves failures alone that have nothing to do with it."""

import random
from collections.abc import Callable

import pytest

from workers.resilience.adaptive_rate import LEAST, START, AdaptiveRate

STEP = 0.02


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rate(clock: Clock) -> AdaptiveRate:
    return AdaptiveRate(clock)


def play(
    rate: AdaptiveRate, clock: Clock, seconds: float, accepts: Callable[[], bool], most: float = 400
) -> list[bool]:
    """Make as many calls as the rate permits, 400 a second at most; a refused one is accepted later in `recovers`."""
    answers, credit = list[bool](), 0.0
    for _ in range(round(seconds / STEP)):
        clock.now += STEP
        credit = min(credit + most * STEP, most * STEP + 1)
        calls = rate.available(int(credit))
        rate.consume(calls)
        credit -= calls
        for _ in range(calls):
            answers.append(accepts())
            rate.record(accepted=answers[-1])
    return answers


class Provider:
    """Accepts so many calls a second, in windows of a second or evenly."""

    def __init__(self, clock: Clock, allowed: int, rate: AdaptiveRate, *, window: float) -> None:
        self.clock, self.allowed, self.rate, self.window = clock, allowed, rate, window
        self.number, self.count = 0, 0.0

    def __call__(self) -> bool:
        number = int(self.clock.now / self.window)
        if number != self.number:
            self.number, self.count = number, 0.0
        self.count += 1
        is_accepted = self.count <= self.allowed * self.window
        # What is refused comes back a little later, and has then the same chance.
        self.rate.record_retry(accepted=is_accepted)
        return is_accepted


@pytest.mark.parametrize("window", [1.0, 0.1])
@pytest.mark.parametrize("allowed", [50, 150])
def test_nearly_all_that_a_provider_allows_is_used_and_little_is_refused(
    rate: AdaptiveRate, clock: Clock, allowed: int, window: float
) -> None:
    provider = Provider(clock, allowed, rate, window=window)
    play(rate, clock, 3, provider)
    answers = play(rate, clock, 10, provider)
    assert sum(answers) >= 0.9 * 10 * allowed
    assert len(answers) - sum(answers) <= 0.25 * len(answers)


def test_a_third_of_recipients_that_always_fail_does_not_lower_the_rate(rate: AdaptiveRate, clock: Clock) -> None:
    chance = random.Random(1)
    answers = play(rate, clock, 10, lambda: chance.random() > 0.3)
    assert len(answers) >= 0.9 * 10 * 400


def test_while_nothing_is_accepted_or_little_was_tried_nothing_is_lowered(rate: AdaptiveRate, clock: Clock) -> None:
    play(rate, clock, 1, lambda: False)
    assert rate.limit == START
    clock.now += 10
    rate.record(accepted=True)
    for _ in range(5):
        rate.record(accepted=False)
    assert rate.limit > START


def test_each_accepted_call_permits_more_until_a_pause(rate: AdaptiveRate, clock: Clock) -> None:
    assert rate.limit == START
    play(rate, clock, 1, lambda: True, most=10_000)
    assert rate.limit > 4 * START
    clock.now += 2
    assert rate.limit == START


def test_the_rate_is_never_below_a_floor_and_grows_again(rate: AdaptiveRate, clock: Clock) -> None:
    accepted = iter([True] + [False] * 10_000)
    play(rate, clock, 2, lambda: next(accepted))
    first = rate.limit
    assert LEAST <= first < START
    clock.now += 2
    assert first < rate.limit < START
    clock.now += 10
    assert rate.limit == START
