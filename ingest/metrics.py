"""The metrics of `serve`, in Prometheus' text format."""

from collections.abc import Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
GROUP_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        self._kept = counter("webhooks_deliveries_kept", "Deliveries on disk")
        self._repeated = counter("webhooks_deliveries_repeated", "Deliveries kept before")
        self._refused = counter("webhooks_requests_refused", "Requests not kept, by reason", ("reason",))
        self._group = histogram("webhooks_inbox_commit_deliveries", "Deliveries in a commit", buckets=GROUP_SIZES)
        self._seconds = histogram("webhooks_inbox_commit_seconds", "Time of a commit", buckets=COMMIT_SECONDS)
        self._failures = counter("webhooks_inbox_commits_failed", "Commits that kept nothing")
        self._quarantined = counter("webhooks_quarantine_entered", "Requests put in quarantine")
        self._dropped = counter("webhooks_quarantine_dropped", "Requests dropped from quarantine for room or age")

    def committed(self, *, kept: int, repeated: int, seconds: float) -> None:
        """Count one commit of the inbox."""
        self._kept.inc(kept)
        self._repeated.inc(repeated)
        self._group.observe(kept + repeated)
        self._seconds.observe(seconds)

    def commit_failed(self) -> None:
        """Count one commit that failed."""
        self._failures.inc()

    def refused(self, reason: str) -> None:
        """Count one request that was not kept."""
        self._refused.labels(reason).inc()

    def quarantined(self, *, entered: int, dropped: int) -> None:
        """Count requests that entered the quarantine, and those dropped from it for room or age."""
        self._quarantined.inc(entered)
        self._dropped.inc(dropped)

    def text(self, measured: Mapping[str, float]) -> bytes:
        """Format all metrics, with gauges that were measured for this request."""
        return render(self._registry, "webhooks", measured)


def render(registry: CollectorRegistry, prefix: str, measured: Mapping[str, float]) -> bytes:
    """Format a registry, and gauges whose names get the prefix."""
    gauges = CollectorRegistry()
    for name, value in measured.items():
        Gauge(f"{prefix}_{name}", name.replace("_", " ").capitalize(), registry=gauges).set(value)
    return generate_latest(registry) + generate_latest(gauges)
