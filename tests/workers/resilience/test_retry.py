"""The retry policy, as a table."""

from datetime import UTC, datetime, timedelta

import pytest

from workers.resilience.retry import RetryPolicy

POLICY = RetryPolicy(attempts=5, first=timedelta(seconds=2), longest=timedelta(seconds=12))
AT = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.mark.parametrize(("attempt", "again"), [(1, True), (4, True), (5, False), (6, False)])
def test_after_the_last_attempt_there_is_no_next_one(attempt: int, *, again: bool) -> None:
    assert (POLICY.next_at(attempt, AT) is not None) is again


def test_the_wait_doubles_with_each_attempt() -> None:
    assert [POLICY.next_at(attempt, AT, jitter=0) for attempt in (1, 2)] == [
        AT + timedelta(seconds=2),
        AT + timedelta(seconds=4),
    ]


def test_runs_that_failed_together_are_not_retried_together() -> None:
    assert len({POLICY.next_at(3, AT) for _ in range(20)}) > 10
