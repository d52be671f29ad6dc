"""Which policies are left alone: one that fails time and again would only make every driver wait for its failure."""

from collections.abc import Callable, Iterable, Sequence

import structlog

from ingest.authorize.decision_record import FallbackReason
from ingest.authorize.evaluator import PolicyResult
from workers.resilience.circuit_breaker import CircuitBreaker

log = structlog.get_logger()

# Whoever knows too little is well: it was one question, and the next one may be another driver's.
COUNTED_FAILURES = (FallbackReason.TIMEOUT, FallbackReason.RAISED, FallbackReason.CRASHED)


class PolicyBreakers:
    """A breaker for each policy; after a pause one question finds out how it is. For one thread only."""

    def __init__(self, policies: Sequence[str], monotonic: Callable[[], float]) -> None:
        self._breakers = {name: CircuitBreaker(clock=monotonic) for name in policies}
        self._probing = dict.fromkeys(policies, 0)

    def open_policies(self) -> tuple[str, ...]:
        """Name those that have failed so often that they are left alone."""
        return tuple(name for name, breaker in self._breakers.items() if breaker.is_open)

    def acquire(self) -> tuple[frozenset[str], frozenset[str]]:
        """Begin with a question: name the policies it shall spare, and those whose probe it is."""
        found = self.open_policies()
        probed = frozenset(
            name for name in found if self._breakers[name].permits(1, in_flight=self._probing[name]) == 1
        )
        for name in probed:
            self._probing[name] += 1
        return frozenset(found) - probed, probed

    def record(self, ruling: PolicyResult, asked: Iterable[str], probed: Iterable[str]) -> None:
        """Note what came of a question, and of which policies it was asked."""
        for name in probed:
            self._probing[name] -= 1
        failed = ruling.policy if ruling.failure in COUNTED_FAILURES else None
        for name in set(asked) - {failed}:
            self._breakers[name].record_success()
        if failed is not None:
            breaker = self._breakers[failed]
            was_open = breaker.is_open
            breaker.record_failure()
            if breaker.is_open and not was_open:
                log.warning("policy.spared", policy=failed, failure=ruling.failure)
