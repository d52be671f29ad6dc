"""Counters and histograms that many short-lived processes add to, in Redis: whichever process is asked has the sum.

A work horse may die with any job, and prometheus_client's files would be one set a process. So a process counts in
memory and adds what is new to one hash, after each job or once a second. What it has counted when it is killed is lost.
"""

import json
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import redis
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ingest.wire.timestamps import utc_now

KEY = "webhooks:metrics"
HOUR_FORMAT = f"{KEY}:%Y-%m-%dT%H"
"""The key of one hour, in UTC."""
HOURS_KEPT = timedelta(days=8)
INFINITY = float("inf")

#: The name of a sample, and the values of its labels.
Sample = tuple[str, ...]


@dataclass(frozen=True)
class SharedMetric:
    """A counter, or a histogram if it has buckets."""

    name: str
    documentation: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    """The upper bounds, without the infinite one."""
    is_hourly: bool = False
    """Whether it is also counted by the hour, for HOURS_KEPT."""

    @property
    def counter(self) -> str:
        """The name of a counter's samples."""
        return f"{self.name}_total"

    @property
    def bucket(self) -> str:
        """The name of a histogram's buckets; unlike Prometheus', they are not cumulative in Redis."""
        return f"{self.name}_bucket"

    @property
    def sum(self) -> str:
        """The name of a histogram's sum."""
        return f"{self.name}_sum"


class SharedCounts:
    """What this process has counted and not added to Redis yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Sample, float] = {}
        self._hourly: set[str] = set()

    def increment(self, metric: SharedMetric, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        self._hourly |= {metric.counter} if metric.is_hourly else set()
        self._add({(metric.counter, *labels): by})

    def observe(self, metric: SharedMetric, *labels: str, values: Iterable[float]) -> None:
        """Add values to a histogram. A negative one, since clocks may differ, counts as zero."""
        self._hourly |= {metric.bucket} if metric.is_hourly else set()
        positive = [max(value, 0.0) for value in values]
        bounds = (*metric.buckets, INFINITY)
        counts = Counter(bisect_left(metric.buckets, value) for value in positive)
        buckets = {(metric.bucket, *labels, _label(bounds[index])): number for index, number in counts.items()}
        self._add({**buckets, (metric.sum, *labels): sum(positive)})

    def flush(self, connection: redis.Redis) -> None:
        """Add what was counted to what all have counted. Raise RedisError; then it is added by the next flush."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return
        hour = utc_now().strftime(HOUR_FORMAT)
        try:
            with connection.pipeline(transaction=False) as pipe:
                for sample, value in counts.items():
                    pipe.hincrbyfloat(KEY, json.dumps(sample), value)
                    if sample[0] in self._hourly:
                        pipe.hincrbyfloat(hour, json.dumps(sample), value)
                if any(sample[0] in self._hourly for sample in counts):
                    pipe.expire(hour, HOURS_KEPT)
                pipe.execute()
        except redis.RedisError:
            self._add(counts)
            raise

    def _add(self, counts: Mapping[Sample, float]) -> None:
        with self._lock:
            for sample, value in counts.items():
                self._counts[sample] = self._counts.get(sample, 0) + value


def read_hours(connection: redis.Redis, until: datetime, hours: int) -> list[dict[Sample, float]]:
    """Return what all processes have counted in each of the last hours, the current one first. Raise RedisError."""
    with connection.pipeline(transaction=False) as pipe:
        for number in range(hours):
            pipe.hgetall((until - timedelta(hours=number)).strftime(HOUR_FORMAT))
        return [{tuple(json.loads(field)): float(value) for field, value in found.items()} for found in pipe.execute()]


class SharedCollector(Collector):
    """Reads what all processes have counted. Raises RedisError."""

    def __init__(self, connection: redis.Redis, metrics: Sequence[SharedMetric]) -> None:
        self._connection = connection
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Return a family for each metric; fields that another version wrote are left out."""
        samples: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        for field, value in self._connection.hgetall(KEY).items():
            with suppress(ValueError):
                name, *labels = json.loads(field)
                samples[name][tuple(labels)] = float(value)
        for metric in self._metrics:
            if metric.buckets:
                yield _histogram(metric, samples[metric.bucket], samples[metric.sum])
            else:
                yield _counter(metric, samples[metric.counter])


def _counter(metric: SharedMetric, values: Mapping[tuple[str, ...], float]) -> CounterMetricFamily:
    family = CounterMetricFamily(metric.name, metric.documentation, labels=metric.labels)
    for labels, value in sorted(values.items()):
        if len(labels) == len(metric.labels):
            family.add_metric(labels, value)
    return family


def _histogram(
    metric: SharedMetric, buckets: Mapping[tuple[str, ...], float], sums: Mapping[tuple[str, ...], float]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.name, metric.documentation, labels=metric.labels)
    for labels, total in sorted(sums.items()):
        if len(labels) == len(metric.labels):
            family.add_metric(labels, [*_cumulative(metric.buckets, labels, buckets)], total)
    return family


def _cumulative(
    bounds: Iterable[float], labels: tuple[str, ...], counts: Mapping[tuple[str, ...], float]
) -> Iterator[tuple[str, float]]:
    reached = 0.0
    for bound in (*bounds, INFINITY):
        name = _label(bound)
        reached += counts.get((*labels, name), 0.0)
        yield name, reached


def _label(bound: float) -> str:
    return "+Inf" if bound == INFINITY else str(bound)
