"""Prometheus metrics of `authorize`."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from ingest.authorize.decisions import DecisionRecord
from ingest.metrics import limit_metrics, render

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 5)
NO_POLICY = "none"
MEASURED = {
    "webhooks_authorize_processes_ready": "Processes that can evaluate policies",
    "webhooks_authorize_policies_spared": "Policies that are not asked for a while because they kept failing",
}
"""The gauges that are measured for each response."""


class AuthorizeMetrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        limit_metrics().register(registry)
        self._decisions = Counter(
            "webhooks_authorize_decisions",
            "Authorization requests answered, by answer and by the policy that decided",
            ("allowed", "policy"),
            registry=registry,
        )
        self._failures = Counter(
            "webhooks_authorize_failures",
            "Authorization requests answered with AUTHORIZE_ON_FAILURE, by cause and policy",
            ("cause", "policy"),
            registry=registry,
        )
        self._repeated = Counter("webhooks_authorize_repeated", "Responses that repeat one", registry=registry)
        self._refused = Counter(
            "webhooks_authorize_requests_refused", "Requests not answered, by reason", ("reason",), registry=registry
        )
        self._seconds = Histogram(
            "webhooks_authorize_seconds", "From first byte to response", buckets=SECONDS, registry=registry
        )

    def answered(self, record: DecisionRecord) -> None:
        """Count one response with a decision."""
        policy = record.policy or NO_POLICY
        self._decisions.labels(record.decision.allowed.value, policy).inc()
        if record.failure is not None:
            self._failures.labels(record.failure.value, policy).inc()
        if record.repeats is not None:
            self._repeated.inc()
        self._seconds.observe(record.latency.total_seconds())

    def refused(self, reason: str) -> None:
        """Count one request without a decision."""
        self._refused.labels(reason).inc()

    def text(self, gauges: Mapping[str, float]) -> bytes:
        """Render all metrics, with gauges of MEASURED as they are at this moment."""
        return render(self.registry, MEASURED, gauges)
