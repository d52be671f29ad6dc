"""The backoff of a recipient: it waits alone, by the policy, by its Retry-After and by the end of its push."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from handlers.kit.channel import PushFailed
from workers.ledger.pushes import PushRow
from workers.push import recipient_backoff
from workers.push.recipient_backoff import LONGEST_IN_OUTAGE, SLOW_AFTER, RecipientBackoff
from workers.resilience.retry import RetryPolicy

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
BUSY = PushFailed("busy")


class Clock:
    """The wall clock and a monotonic one, moved by hand."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def now(self) -> datetime:
        return NOON + self.passed

    def monotonic(self) -> float:
        return self.passed.total_seconds()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recipients(clock: Clock) -> RecipientBackoff:
    policy = RetryPolicy(attempts=3, first=SECOND, longest=MINUTE)
    return RecipientBackoff(policy, now=clock.now, monotonic=clock.monotonic)


def push(attempts: int = 1, left: timedelta | None = 10 * MINUTE) -> PushRow:
    parts: dict[str, Any] = dict.fromkeys(PushRow.__dataclass_fields__)
    return PushRow(**{**parts, "attempts": attempts, "expires_at": None if left is None else NOON + left})


@pytest.mark.parametrize(
    ("attempts", "left", "after", "earliest", "latest"),
    [
        pytest.param(1, None, None, SECOND / 2, SECOND, id="by the policy"),
        pytest.param(1, None, MINUTE, MINUTE, MINUTE, id="not before the provider asks for it"),
        pytest.param(9, 10 * MINUTE, None, MINUTE / 2, MINUTE, id="however often, while it has not expired"),
        pytest.param(9, 20 * SECOND, None, 10 * SECOND, 10 * SECOND, id="more often near its expiry"),
        pytest.param(9, SECOND, None, SECOND, SECOND, id="not more often than every second"),
        pytest.param(1, 20 * SECOND, MINUTE, 20 * SECOND, 20 * SECOND, id="not after its expiry"),
    ],
)
def test_a_push_is_retried(recipients, attempts, left, after, earliest, latest):  # noqa: PLR0913, PLR0917 - a table
    at = recipients.release("u1", PushFailed("busy", after=after), push(attempts, left))
    assert at is not None
    assert earliest <= at - NOON <= latest


def test_a_push_without_expiry_is_not_retried_after_each_last_attempt(recipients: RecipientBackoff) -> None:
    ends = [recipients.release("u1", BUSY, push(attempts, None)) is None for attempts in range(1, 7)]
    assert ends == [False, False, True, False, False, True]


def test_a_recipient_that_failed_waits_longer_each_time_and_nobody_else_does(
    recipients: RecipientBackoff, clock: Clock
) -> None:
    for wait in (1, 2, 4, 8):
        assert recipients.acquire("u1", None) is None
        retry_at = recipients.release("u1", BUSY, push(left=None))
        assert retry_at is not None
        assert wait / 2 <= (retry_at - clock.now()).total_seconds() <= wait
        assert recipients.acquire("u1", None) == retry_at
        assert recipients.acquire(f"u2 {wait}", None) is None
        clock.passed = retry_at - NOON


def test_a_success_ends_the_wait(recipients: RecipientBackoff, clock: Clock) -> None:
    recipients.release("u1", BUSY, push())
    clock.passed = MINUTE
    assert recipients.failures_of("u1") == (BUSY, 1)
    assert recipients.acquire("u1", None) is None
    recipients.release("u1", None, push())
    assert recipients.failures_of("u1") == (None, 0)
    assert recipients.acquire("u1", None) is None


def test_a_push_near_its_end_waits_for_half_of_its_time_only(recipients: RecipientBackoff) -> None:
    for _ in range(9):
        recipients.release("u1", BUSY, push())
    assert recipients.acquire("u1", NOON + 10 * SECOND) == NOON + 5 * SECOND


def test_a_recipient_with_a_slow_call_has_no_further_call(recipients: RecipientBackoff, clock: Clock) -> None:
    assert [recipients.acquire("u1", None) for _ in range(3)] == [None] * 3
    clock.passed = 2 * SLOW_AFTER
    retry_at = recipients.acquire("u1", None)
    assert retry_at is not None
    assert retry_at > clock.now()
    assert recipients.acquire("u2", None) is None


def test_a_recipient_that_fails_has_one_call_at_a_time(recipients: RecipientBackoff, clock: Clock) -> None:
    recipients.release("u1", BUSY, push())
    clock.passed = MINUTE
    assert recipients.acquire("u1", None) is None
    assert recipients.acquire("u1", None) is not None


def test_while_the_provider_fails_nobody_waits_for_long_and_afterwards_nobody_waits_at_all(
    recipients: RecipientBackoff, clock: Clock
) -> None:
    recipients.set_outage(is_outage=True)
    for _ in range(9):
        retry_at = recipients.release("u1", BUSY, push())
        assert retry_at is not None
        assert retry_at <= clock.now() + LONGEST_IN_OUTAGE
    recipients.set_outage(is_outage=True)
    assert recipients.failures_of("u1") == (BUSY, 9)
    recipients.set_outage(is_outage=False)
    assert recipients.failures_of("u1") == (None, 0)
    assert recipients.acquire("u1", None) is None
    for _ in range(9):
        recipients.release("u1", BUSY, push())
    assert (recipients.acquire("u1", None) or clock.now()) > clock.now() + LONGEST_IN_OUTAGE


def test_a_wall_clock_that_is_set_back_makes_no_wait_longer(recipients: RecipientBackoff, clock: Clock) -> None:
    recipients.release("u1", BUSY, push())
    clock.passed = timedelta(hours=-1)
    retry_at = recipients.acquire("u1", None)
    assert retry_at is not None
    assert retry_at - clock.now() <= SECOND


def test_the_memory_is_bounded(recipients: RecipientBackoff, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipient_backoff, "MAX_RECIPIENTS", 10)
    for number in range(50):
        assert recipients.acquire(f"u{number}", None) is None
        recipients.release(f"u{number}", BUSY, push())
    assert sum(recipients.failures_of(f"u{number}")[1] for number in range(50)) <= 11
