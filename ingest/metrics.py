"""The metrics of `serve`, in Prometheus' text format: of one process, or of all workers of a supervisor together."""

from collections.abc import Iterable, Mapping
from functools import cache, partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ingest.log_handler import DropReason, drop_listeners
from ingest.worker_metrics import GAUGE_MODE, registry_of_all

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
GROUP_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
MEASURED = {
    "webhooks_inbox_up": "Whether an event can be written to the inbox",
    "webhooks_inbox_unsettled": "Deliveries in the inbox that are not settled",
    "webhooks_inbox_oldest_unsettled_seconds": "Age of the oldest of them; 0: there is none",
}
"""The gauges that are measured for each response."""


# A time of creation beside each counter, which Prometheus' text format has no use for and several workers do not have.
disable_created_metrics()  # type: ignore[no-untyped-call]


class LimitMetrics:
    """What the limits on strangers have cost others: connections, bodies and log lines that were dropped."""

    def __init__(self) -> None:
        counter = partial(Counter, registry=None)
        self._connections = counter("webhooks_connections_shed", "Connections closed to make room, by how", ("how",))
        self._bodies = counter("webhooks_bodies_dropped", "Bodies dropped to bound the bytes of all")
        self._lines = counter("webhooks_log_lines_dropped", "Log lines dropped, by reason", ("reason",))
        for how in ("closed", "half_closed"):
            self._connections.labels(how)  # a zero, so that the first one is an increase
        for reason in DropReason:
            self._lines.labels(reason)
        drop_listeners.append(self.lines_dropped)

    def register(self, registry: CollectorRegistry) -> None:
        """Add the counters to what a registry serves."""
        for each in (self._connections, self._bodies, self._lines):
            registry.register(each)

    def connections_shed(self, count: int, *, half_closed: bool) -> None:
        """Count connections that were closed, or half-closed, because there were too many."""
        self._connections.labels("half_closed" if half_closed else "closed").inc(count)

    def bodies_dropped(self, count: int) -> None:
        """Count bodies that were dropped because all together were too large."""
        self._bodies.inc(count)

    def lines_dropped(self, reason: DropReason, count: int) -> None:
        """Count lines that were not logged."""
        self._lines.labels(reason).inc(count)


@cache
def limit_metrics() -> LimitMetrics:
    """Return the counters of this process: the limits are on the process, whatever it serves."""
    return LimitMetrics()


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        # Of workers the leader's count: it is never below a follower's, which has nothing to publish.
        gauge = partial(Gauge, registry=registry, multiprocess_mode=GAUGE_MODE)
        self._kept = counter("webhooks_deliveries_kept", "Deliveries on disk")
        self._repeated = counter("webhooks_deliveries_repeated", "Deliveries kept before")
        self._refused = counter("webhooks_requests_refused", "Requests not kept, by reason", ("reason",))
        self._group = histogram("webhooks_inbox_commit_deliveries", "Deliveries in a commit", buckets=GROUP_SIZES)
        self._seconds = histogram("webhooks_inbox_commit_seconds", "Time of a commit", buckets=COMMIT_SECONDS)
        self._failures = counter("webhooks_inbox_commits_failed", "Commits that kept nothing")
        self._quarantined = counter("webhooks_quarantine_entered", "Requests put in quarantine")
        self._dropped = counter("webhooks_quarantine_dropped", "Requests dropped from quarantine for room or age")
        limit_metrics().register(registry)
        self._redis_up = gauge("webhooks_redis_up", "Whether Redis answers")
        self._leader = gauge("webhooks_relay_leader", "Whether a relay publishes the deliveries of this inbox")
        self._held = gauge("webhooks_relay_held", "Deliveries that are only in the inbox, not yet on a queue")
        self._last_offer = gauge(
            "webhooks_relay_last_offer_timestamp_seconds", "When the relay last published a batch; 0: not yet"
        )

    def committed(self, *, kept: int, repeated: int, seconds: float) -> None:
        """Count one commit of the inbox."""
        self._kept.inc(kept)
        if repeated:  # rare, and each count of several workers is a write to a file
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

    def relay(self, *, redis_ok: bool, leader: bool, backlog: int, last_published: float) -> None:
        """Record the state of this process's relay."""
        self._redis_up.set(redis_ok)
        self._leader.set(leader)
        self._held.set(backlog)
        self._last_offer.set(last_published)

    def text(self, measured: Mapping[str, float]) -> bytes:
        """Format all metrics, with gauges of MEASURED that were measured for this request."""
        return render(registry_of_all() or self.registry, MEASURED, measured)


def render(registry: CollectorRegistry, gauges: Mapping[str, str], measured: Mapping[str, float]) -> bytes:
    """Format a registry, and gauges with their documentation."""
    others = CollectorRegistry()
    others.register(_Measured(gauges, measured))
    return generate_latest(registry) + generate_latest(others)


class _Measured(Collector):
    """Gauges of this moment. Unlike a `Gauge`, which workers share, they are of one response only."""

    def __init__(self, gauges: Mapping[str, str], measured: Mapping[str, float]) -> None:
        self._gauges = gauges
        self._measured = measured

    def collect(self) -> Iterable[Metric]:
        for name, value in self._measured.items():
            yield GaugeMetricFamily(name, self._gauges[name], value=value)
