"""What `authorize` counts, as Prometheus reads it."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from ingest.authorize.decision_record import DecisionRecord
from ingest.metrics import render

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 5)
NO_POLICY = "none"


class AuthorizeMetrics:
    """The numbers of one process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._decisions = Counter(
            "webhooks_authorize_decisions",
            "Questions answered, by answer and by the policy that decided",
            ("allowed", "policy"),
            registry=registry,
        )
        self._failures = Counter(
            "webhooks_authorize_failures",
            "Questions answered with AUTHORIZE_ON_FAILURE, by cause and policy",
            ("cause", "policy"),
            registry=registry,
        )
        self._repeated = Counter("webhooks_authorize_repeated", "Answers that repeat one", registry=registry)
        self._refused = Counter(
            "webhooks_authorize_requests_refused", "Requests not answered, by reason", ("reason",), registry=registry
        )
        self._seconds = Histogram(
            "webhooks_authorize_seconds", "From first byte to answer", buckets=SECONDS, registry=registry
        )

    def answered(self, verdict: DecisionRecord) -> None:
        """Count one answer."""
        policy = verdict.policy or NO_POLICY
        self._decisions.labels(verdict.decision.allowed.value, policy).inc()
        if verdict.failure is not None:
            self._failures.labels(verdict.failure.value, policy).inc()
        if verdict.repeats is not None:
            self._repeated.inc()
        self._seconds.observe(verdict.latency.total_seconds())

    def refused(self, reason: str) -> None:
        """Count one request that got no answer to its question."""
        self._refused.labels(reason).inc()

    def text(self, facts: Mapping[str, float]) -> bytes:
        """Render all numbers, with facts that were looked up because somebody asked."""
        return render(self._registry, "webhooks_authorize", facts)
