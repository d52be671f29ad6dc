"""Sums up the runs of each handler in the last day and week: how many ended well, and how long an attempt took."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import redis

from workers.ledger.states import Outcome
from workers.observability.redis_metrics import Sample, read_hours
from workers.observability.work_metrics import RUN_SECONDS, RUNS

DAY, WEEK = timedelta(days=1), timedelta(days=7)
HOUR = timedelta(hours=1)
ENDED_WELL = (Outcome.DONE, Outcome.MOOT, Outcome.IGNORED)
PART = 0.95


@dataclass(frozen=True)
class HandlerMetrics:
    """What a handler did in a span."""

    ended: int
    """Runs that ended, well or dead; attempts that are followed by another one are not among them."""
    dead: int
    again: int
    """Attempts that were followed by another one."""
    p95: timedelta | None
    """An upper bound: 95 of 100 attempts took no longer. None without an attempt, or if it is beyond all buckets."""

    @property
    def success(self) -> float | None:
        """The part of the runs that ended well; None without any."""
        return None if not self.ended else (self.ended - self.dead) / self.ended


def read_handler_metrics(
    connection: redis.Redis, now: datetime
) -> tuple[Mapping[str, HandlerMetrics], Mapping[str, HandlerMetrics]]:
    """Return the metrics of the last 24 hours and of the last 7 days, each by handler. Raise RedisError."""
    hours = read_hours(connection, now, WEEK // HOUR)
    return _sum(hours[: DAY // HOUR]), _sum(hours)


def _sum(hours: Iterable[Mapping[Sample, float]]) -> dict[str, HandlerMetrics]:
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    buckets: defaultdict[str, Counter[float]] = defaultdict(Counter)
    for hour in hours:
        for (name, handler, label), value in ((key, value) for key, value in hour.items() if len(key) == 3):  # noqa: PLR2004 - a name and two labels
            if name == RUNS.counter:
                outcomes[handler][label] += round(value)
            elif name == RUN_SECONDS.bucket:
                buckets[handler][float(label)] += round(value)
    return {
        handler: HandlerMetrics(
            ended=sum(counts[each] for each in (*ENDED_WELL, Outcome.DEAD)),
            dead=counts[Outcome.DEAD],
            again=counts[Outcome.AGAIN],
            p95=_quantile(buckets[handler]),
        )
        for handler, counts in outcomes.items()
    }


def _quantile(buckets: Counter[float]) -> timedelta | None:
    reached, wanted = 0, PART * buckets.total()
    for bound, count in sorted(buckets.items()):
        reached += count
        if reached >= wanted:
            return timedelta(seconds=bound) if bound < float("inf") else None
    return None
