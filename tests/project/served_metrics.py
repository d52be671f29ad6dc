"""The metrics that processes serve: their names, types and labels, from the objects that are served."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from ingest import metrics as serve_metrics
from ingest.authorize import authorize_metrics
from ingest.authorize.authorize_metrics import AuthorizeMetrics
from ingest.metrics import Metrics
from ingest.queue.redis_client import connect_redis
from ingest.wire.timestamps import utc_now
from workers.observability.ledger_metrics import format_state
from workers.observability.queue_metrics import RedisCollector
from workers.observability.work_metrics import METRICS

NOWHERE = connect_redis("unix:///nowhere")


@dataclass(frozen=True)
class ServedMetric:
    """A metric as it is served."""

    name: str
    """Of a counter with `_total`."""
    type: str
    labels: tuple[str, ...]
    documentation: str

    @property
    def samples(self) -> set[str]:
        """The names of its samples."""
        if self.type != "histogram":
            return {self.name}
        return {f"{self.name}_{part}" for part in ("bucket", "sum", "count")}


def served_metrics() -> dict[str, list[ServedMetric]]:
    """Return the metrics of each process type."""
    return {
        "serve": [*_of_registry(Metrics().registry), *_of_gauges(serve_metrics.MEASURED)],
        "authorize": [*_of_registry(AuthorizeMetrics().registry), *_of_gauges(authorize_metrics.MEASURED)],
        "clock": sorted(_of_installation(), key=lambda metric: metric.name),
    }


def _of_registry(registry: CollectorRegistry) -> Iterator[ServedMetric]:
    for metric in registry._collector_to_names:  # noqa: SLF001 - it lists metrics without values, too
        if isinstance(metric, MetricWrapperBase):
            total = "_total" if metric._type == "counter" else ""  # noqa: SLF001 - labels are found nowhere else
            yield ServedMetric(metric._name + total, metric._type, metric._labelnames, metric._documentation)  # noqa: SLF001


def _of_gauges(gauges: Mapping[str, str]) -> Iterable[ServedMetric]:
    return [ServedMetric(name, "gauge", (), documentation) for name, documentation in gauges.items()]


def _of_installation() -> Iterator[ServedMetric]:
    yield ServedMetric("webhooks_ledger_up", "gauge", (), "Whether the ledger can be read")
    for family in (*format_state(None, utc_now()), *RedisCollector(NOWHERE).collect()):
        yield ServedMetric(family.name, family.type, family._labelnames, family.documentation)  # type: ignore[attr-defined]  # noqa: SLF001
    for each in METRICS:
        name, kind = (each.name, "histogram") if each.buckets else (each.counter, "counter")
        yield ServedMetric(name, kind, each.labels, each.documentation)
