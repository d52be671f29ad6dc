"""Flow control of a channel: how many pushes may be claimed now, from what the provider said before.

| what | bounds |
|---|---|
| PUSH_CONCURRENCY | calls that began a moment ago; half of them may be retries |
| slow calls | ten times as many; retries may be half of them |
| adaptive rate | calls a second, once the provider refuses some of many |
| circuit breaker | after 2 seconds without success: one retry a pause, and 10 untried pushes a second |
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from handlers.kit.channel import PushFailed
from workers.ledger.pushes import Claim
from workers.resilience.adaptive_rate import AdaptiveRate
from workers.resilience.circuit_breaker import CircuitBreaker
from workers.resilience.token_bucket import TokenBucket

OUTAGE_AFTER = timedelta(seconds=2)
"""How long nothing is accepted before the provider counts as failing: recipients in a row may fail by themselves."""

SLOW_AFTER = timedelta(milliseconds=250)
"""A call without an answer for so long is slow."""

SLOW_FACTOR = 10
"""So many times PUSH_CONCURRENCY calls may be slow. They may hang for as long as PUSH_TIMEOUT."""

TRIALS_PER_MINUTE = 600

FAILING_ATTEMPTS = 2
"""A push that was tried so often is failing. One that was tried once may have met a provider that was busy."""


PACE_FAILURES = 2
"""A recipient that was refused so often in a row as one call too many is itself at fault, and not the pace."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The provider's answer to one call."""

    failure: PushFailed | None
    earlier: PushFailed | None = None
    """The failure of the same recipient's call before."""
    failures: int = 0
    """How many calls to the recipient had failed in a row before."""


@dataclass(frozen=True, slots=True)
class ClaimLimits:
    """How many pushes may be claimed, and how many of them may have had so many attempts."""

    limit: int
    failing: int
    attempts: int


@dataclass(frozen=True, slots=True)
class _Call:
    began_at: float
    is_failing: bool


class FlowControl:
    """Limits what is claimed. For one thread only."""

    def __init__(
        self,
        concurrency: int,
        *,
        breaker: CircuitBreaker | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._concurrency = concurrency
        self._monotonic = monotonic
        self._breaker = breaker or CircuitBreaker(patience=OUTAGE_AFTER, clock=monotonic)
        self._rate = AdaptiveRate(monotonic)
        self._trials = TokenBucket(TRIALS_PER_MINUTE, monotonic=monotonic)
        self._calls: dict[Claim, _Call] = {}

    @property
    def is_open(self) -> bool:
        """Whether the provider fails: its circuit is open."""
        return self._breaker.is_open

    def limits(self) -> ClaimLimits:
        """Return how much may be claimed now."""
        fast, slow = self._count(failing_only=False)
        fast_failing, slow_failing = self._count(failing_only=True)
        free = self._concurrency - fast if slow < SLOW_FACTOR * self._concurrency else 0
        failing = max(1, self._concurrency // 2) - fast_failing
        if slow_failing >= SLOW_FACTOR * self._concurrency // 2:
            failing = 0
        free = self._rate.available(max(free, 0))
        if not self.is_open:
            return ClaimLimits(free, max(failing, 0), FAILING_ATTEMPTS)
        probes = self._breaker.permits(free, in_flight=fast_failing + slow_failing)
        return ClaimLimits(min(free, probes + self._trials.available()), probes, 1)

    def begin(self, claim: Claim) -> None:
        """Take a slot for a claimed push."""
        attempts = claim[1] - 1
        if self.is_open and not attempts:
            self._trials.consume(1)
        self._rate.consume(1)
        boundary = 1 if self.is_open else FAILING_ATTEMPTS
        self._calls[claim] = _Call(self._monotonic(), attempts >= boundary)

    def end(self, claim: Claim) -> None:
        """Free the slot of a push none of whose calls is under way any more."""
        self._calls.pop(claim, None)

    def record(self, answer: Answer) -> None:
        """Record an answer. A recipient that failed before says nothing of the provider by failing again."""
        failure, earlier = answer.failure, answer.earlier
        if earlier is not None and earlier.throttled:
            self._rate.record_retry(accepted=failure is None)
        if failure is None:
            self._rate.record(accepted=True)
        elif failure.retryable and answer.failures < (PACE_FAILURES if failure.throttled else 1):
            self._rate.record(accepted=False)
        if failure is None or not failure.retryable:
            self._breaker.record_success()
        elif earlier is None or self.is_open:
            self._breaker.record_failure(failure.after)

    def _count(self, *, failing_only: bool) -> tuple[int, int]:
        """Return how many calls began a moment ago, and how many are slow."""
        calls = [call for call in self._calls.values() if call.is_failing or not failing_only]
        since = self._monotonic() - SLOW_AFTER.total_seconds()
        fast = sum(call.began_at > since for call in calls)
        return fast, len(calls) - fast
