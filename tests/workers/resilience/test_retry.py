"""The pure policy of trying again, as a table."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.resilience.retry import RetryPolicy

POLICY = RetryPolicy(attempts=5, first=timedelta(seconds=2), longest=timedelta(seconds=12))
AT = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 2), (2, 4), (3, 8), (4, 12), (5, 12), (1_000_000, 12)])
def test_the_span_doubles_up_to_the_longest(attempt: int, seconds: float) -> None:
    assert POLICY.delay(attempt, jitter=0) == timedelta(seconds=seconds)


def test_jitter_takes_up_to_half_of_the_span_away() -> None:
    assert POLICY.delay(1, jitter=1) == timedelta(seconds=1)


@given(st.integers(1, 100))
def test_a_span_is_never_nothing_nor_longer_than_the_longest(attempt: int) -> None:
    assert POLICY.first / 2 <= POLICY.delay(attempt) <= POLICY.longest


@pytest.mark.parametrize(("attempt", "again"), [(1, True), (4, True), (5, False), (6, False)])
def test_the_last_attempt_is_the_last(attempt: int, *, again: bool) -> None:
    assert (POLICY.next_at(attempt, AT) is not None) is again


def test_runs_that_failed_together_do_not_come_back_together() -> None:
    assert len({POLICY.next_at(3, AT) for _ in range(20)}) > 10
