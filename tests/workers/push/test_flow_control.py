"""What a channel sends when: its sender is played in virtual time, in which minutes of a provider cost seconds."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import pytest

from handlers.kit.channel import PushFailed
from workers.ledger.pushes import PushRow
from workers.push.flow_control import SLOW_FACTOR, Answer, FlowControl
from workers.push.recipient_backoff import RecipientBackoff
from workers.resilience.retry import RetryPolicy

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
STEP = 0.02
LATENCY = 0.02
TIMEOUT = 10.0
POLICY = RetryPolicy(attempts=12, first=timedelta(seconds=2), longest=timedelta(hours=1))


@pytest.fixture(autouse=True)
def _same_jitter() -> None:
    random.seed(1)


#: What a provider answers to a push at a time: a failure or none, after so many seconds.
Provider: TypeAlias = Callable[[PushRow, float], tuple[PushFailed | None, float]]


@dataclass
class Waiting:
    row: PushRow
    made_at: float
    due_at: float
    sent_at: float | None = None


class Sender:
    """A sender and its ledger in virtual time."""

    def __init__(self, provider: Provider, concurrency: int = 20) -> None:
        self.now = 0.0
        self.provider = provider
        self.concurrency = concurrency
        self.recipients = RecipientBackoff(POLICY, now=self.wall, monotonic=lambda: self.now)
        self.flow = FlowControl(concurrency, monotonic=lambda: self.now)
        self.pushes: list[Waiting] = []
        self.calls: list[tuple[float, Waiting, Answer]] = []
        self.tried: list[tuple[float, str]] = []
        self.most_calls = 0
        self.was_open = False

    def wall(self) -> datetime:
        return NOON + timedelta(seconds=self.now)

    def add(self, users: Sequence[str], *, at: float = 0.0, lead: float | Sequence[float] = 600.0) -> None:
        parts: dict[str, Any] = dict.fromkeys(PushRow.__dataclass_fields__)
        for number, user in enumerate(users):
            end = lead if isinstance(lead, float) else lead[number]
            expires_at = NOON + timedelta(seconds=at + end)
            row = PushRow(
                **{**parts, "id": f"{len(self.pushes)}", "user_id": user, "attempts": 0, "expires_at": expires_at}
            )
            self.pushes.append(Waiting(row, at, at))

    def play(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = self.now + seconds
        while self.now < end and not until():
            for _ in range(10):
                self._collect()
                self._claim()
                self.now += STEP

    def _claim(self) -> None:
        """Claim as `workers.ledger.pushes.claim` does."""
        allowed, due = self.flow.limits(), [each for each in self.pushes if each.due_at <= self.now]
        due.sort(key=lambda each: (each.row.expires_at, each.row.attempts, int(each.row.id)))
        retried = [each for each in due if each.row.attempts >= allowed.attempts][: min(allowed.failing, allowed.limit)]
        others = [each for each in due if each.row.attempts < allowed.attempts][: allowed.limit]
        share = max(len(retried[: -(-allowed.limit // 5)]), allowed.limit - len(others))
        for each in [*retried[:share], *others][: allowed.limit]:
            each.row = replace(each.row, attempts=each.row.attempts + 1)
            each.due_at = math.inf
            self._attempt(each)
        self.most_calls = max(self.most_calls, len(self.calls))

    def _attempt(self, push: Waiting) -> None:
        self.flow.begin(push.row.claim)
        earlier = self.recipients.failures_of(push.row.user_id)
        postponed_to = self.recipients.acquire(push.row.user_id, push.row.expires_at)
        if postponed_to is not None:
            self.flow.end(push.row.claim)
            push.due_at = (postponed_to - NOON).total_seconds()
            return
        failure, latency = self.provider(push.row, self.now)
        self.tried.append((self.now, push.row.id))
        self.calls.append((self.now + latency, push, Answer(failure, *earlier)))

    def _collect(self) -> None:
        ended = [call for call in self.calls if call[0] <= self.now]
        self.calls = [call for call in self.calls if call[0] > self.now]
        for _, push, answer in ended:
            self.flow.end(push.row.claim)
            self.flow.record(answer)
            if self.flow.is_open is not self.was_open:
                self.was_open = self.flow.is_open
                self.recipients.set_outage(is_outage=self.was_open)
            retry_at = self.recipients.release(push.row.user_id, answer.failure, push.row)
            if answer.failure is None:
                push.sent_at = self.now
            elif retry_at is not None:
                push.due_at = (retry_at - NOON).total_seconds()

    def latencies(self, prefix: str = "good") -> list[float]:
        pushes = [each for each in self.pushes if each.row.user_id.startswith(prefix)]
        return sorted((each.sent_at if each.sent_at is not None else math.inf) - each.made_at for each in pushes)

    def p99(self) -> float:
        latencies = self.latencies()
        return latencies[math.ceil(0.99 * len(latencies)) - 1]


FAILURES: dict[str, Callable[[], tuple[PushFailed | None, float]]] = {
    "429": lambda: (PushFailed("429", throttled=True), LATENCY),
    "429 with Retry-After": lambda: (PushFailed("429", throttled=True, after=timedelta(minutes=1)), LATENCY),
    "5xx": lambda: (PushFailed("503"), LATENCY),
    "refused": lambda: (PushFailed("400", retryable=False), LATENCY),
    "hang": lambda: (PushFailed("there was no answer in time"), TIMEOUT),
}
KINDS = random.Random(1)


def any_failure() -> tuple[PushFailed | None, float]:
    return FAILURES[KINDS.choice(["429", "5xx", "refused", "hang"])]()


FAILURES["mixed"] = any_failure


def failing_for_bad_ones(how: str) -> Provider:
    return lambda push, _now: FAILURES[how]() if push.user_id.startswith("bad") else (None, LATENCY)


def drivers(count: int, order: str) -> list[str]:
    """Name drivers of whom 30 % fail, in an order."""
    bad, good = [f"bad{number}" for number in range(count * 3 // 10)], [f"good{number}" for number in range(count)]
    good = good[len(bad) :]
    if order == "last":
        return good + bad
    if order == "mixed":
        both = bad + good
        random.Random(1).shuffle(both)
        return both
    return bad + good


@pytest.mark.parametrize("order", ["first", "mixed", "last"])
@pytest.mark.parametrize("how", FAILURES)
def test_recipients_that_fail_delay_nobody(how: str, order: str) -> None:
    sender = Sender(failing_for_bad_ones(how))
    sender.add(drivers(400, order))
    sender.play(20, lambda: sender.p99() < math.inf)
    assert sender.p99() <= 3


@pytest.mark.parametrize("how", FAILURES)
def test_recipients_that_have_failed_for_minutes_delay_no_new_push(how: str) -> None:
    sender = Sender(failing_for_bad_ones(how))
    sender.add([f"bad{number}" for number in range(40)])
    sender.play(120)
    sender.add([f"good{number}" for number in range(100)], at=sender.now)
    sender.play(20, lambda: sender.p99() < math.inf)
    assert sender.p99() <= 3


def test_one_recipient_that_hangs_with_many_pushes_delays_nobody() -> None:
    sender = Sender(failing_for_bad_ones("hang"))
    sender.add(["bad fleet"] * 300 + [f"good{number}" for number in range(100)])
    sender.play(20, lambda: sender.p99() < math.inf)
    assert sender.p99() <= 3


def test_the_calls_under_way_are_bounded() -> None:
    sender = Sender(lambda _push, _now: (PushFailed("there was no answer in time"), TIMEOUT), concurrency=5)
    sender.add([f"bad{number}" for number in range(300)])
    sender.play(60)
    assert 5 * SLOW_FACTOR <= sender.most_calls <= 5 * (1 + SLOW_FACTOR)


class Quota:
    """A provider that accepts so many calls in each window; with some latency."""

    def __init__(self, per_second: int, *, window: float = 1.0, after: float | None = None) -> None:
        self.allowed, self.window = per_second * window, window
        self.failure = PushFailed("429", throttled=True, after=None if after is None else timedelta(seconds=after))
        self.number, self.count, self.refused = -1, 0, 0

    def __call__(self, _push: PushRow, now: float) -> tuple[PushFailed | None, float]:
        if int(now / self.window) != self.number:
            self.number, self.count = int(now / self.window), 0
        self.count += 1
        self.refused += self.count > self.allowed
        return (self.failure if self.count > self.allowed else None), LATENCY


@pytest.mark.parametrize("window", [1.0, 0.1])
@pytest.mark.parametrize("after", [None, 1.0])
def test_a_burst_uses_what_the_provider_allows(window: float, after: float | None) -> None:
    provider = Quota(50, window=window, after=after)
    sender = Sender(provider)
    sender.add([f"good{number}" for number in range(600)])
    sender.play(60, lambda: sender.latencies()[-1] < math.inf)
    assert sender.latencies()[-1] <= 600 / 50 / 0.8
    assert provider.refused <= 600


def test_what_expires_first_is_sent_first_at_the_pace_of_the_provider() -> None:
    sender = Sender(Quota(50))
    order = random.Random(1).sample(range(600), 600)
    sender.add([f"good{number}" for number in order], lead=[300.0 + number for number in order])
    sender.play(60, lambda: sender.latencies()[-1] < math.inf)
    sent = sorted(sender.pushes, key=lambda each: each.sent_at or math.inf)
    ranks = [int(each.row.user_id.removeprefix("good")) for each in sent]
    assert max(ranks[:200]) < 400
    assert max(rank - place for place, rank in enumerate(ranks)) < 250


def test_an_outage_loses_no_push_and_is_probed_slowly_with_what_expires_first() -> None:
    refused = PushFailed("401")
    sender = Sender(lambda _push, now: (refused if now < 60 else None, LATENCY))
    sender.add([f"good{number}" for number in range(200)], lead=[150.0 + number for number in range(200)])
    sender.play(3)
    assert len({push_id for _, push_id in sender.tried}) == 200, "each was tried once before the outage is believed"
    sender.play(57)
    assert sender.flow.is_open
    probes = [push_id for at, push_id in sender.tried if at > 10]
    assert 5 <= len(probes) <= 20
    assert set(probes) <= {f"{number}" for number in range(20)}
    sender.play(30)
    assert not sender.flow.is_open
    assert sender.latencies()[-1] < 90


def test_new_pushes_are_tried_during_an_outage_but_slowly() -> None:
    sender = Sender(lambda _push, _now: (PushFailed("503"), LATENCY))
    sender.add([f"bad{number}" for number in range(20)])
    sender.play(5)
    assert sender.flow.is_open
    before = len(sender.tried)
    sender.add([f"new{number}" for number in range(1000)], at=sender.now)
    sender.play(10)
    assert 150 <= len(sender.tried) - before <= 250
