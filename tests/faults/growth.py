"""Growth: which of the series that were sampled rise for good, and by how much an hour."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median, quantiles
from typing import NamedTuple, TypeAlias

HOUR = 3600.0
#: A series may rise by so much of its median, or by its metric's allowance, in its longest life.
RELATIVE = 0.05
#: Most points of a life that are compared in pairs; more are thinned out.
MOST_POINTS = 240


class Metric(NamedTuple):
    """Something that is sampled."""

    name: str
    unit: str
    allowance: float
    """A rise by so much in the longest life that was judged is no growth: noise, or a cache that fills."""


MEMORY = Metric("memory", "MiB", 8)
FILES = Metric("file descriptors", "", 4)
THREADS = Metric("threads", "", 3)
PROCESSES = Metric("processes", "", 1)
#: Each of our processes keeps up to ten idle ones in its pool, once that many were needed at a time.
CONNECTIONS = Metric("connections", "", 10)
DISK = Metric("disk", "MiB", 24)
ROWS = Metric("rows", "", 300)
KEYS = Metric("keys", "", 60)
REDIS_MEMORY = Metric("memory in Redis", "MiB", 2)

#: The process or store, and what was sampled of it.
Series: TypeAlias = tuple[str, Metric]


class Sample(NamedTuple):
    """A value at a time, in seconds; `life` changes when a process is started anew, after which it fills again."""

    at: float
    value: float
    life: int = 0


@dataclass(frozen=True)
class Trend:
    """How a series went."""

    subject: str
    metric: Metric
    median: float
    highest: float
    per_hour: float
    """The median slope of all pairs of samples of one life that are far enough apart (Theil and Sen)."""
    rose_by: float
    """That slope over the longest life that was judged: with its process all that it had taken ends."""
    grows: bool

    def __str__(self) -> str:
        """Format it as a row of a Markdown table."""
        unit = f" {self.metric.unit}" if self.metric.unit else ""
        verdict = "**grows**" if self.grows else ""
        return (
            f"| {self.subject} | {self.metric.name} | {self.median:,.1f}{unit} | {self.highest:,.1f}{unit} |"
            f" {self.per_hour:+,.1f}{unit} | {verdict} |"
        )


HEAD = "| of | what | median | highest | slope an hour | |\n|---|---|--:|--:|--:|---|"


def trend(series: Series, samples: Iterable[Sample], *, warm_up: float) -> Trend | None:
    """Return how a series went after the warm-up; None if there is too little of it.

    A process that was killed begins a new life: its first samples, for as long as a quarter of the warm-up, are left
    out, and samples of two lives are not compared.
    """
    subject, metric = series
    lives: dict[int, list[Sample]] = defaultdict(list)
    for each in samples:
        lives[each.life].append(each)
    judged = []
    for life in lives.values():
        born = life[0].at
        kept = [each for each in life if each.at >= warm_up and each.at - born >= warm_up / 4]
        if len(kept) > 2:
            judged.append(thinned(kept))
    if not judged:
        return None
    values = [each.value for life in judged for each in life]
    # Pairs that are close together say more about noise than about growth.
    longest = max(life[-1].at - life[0].at for life in judged)
    slopes = [
        (later.value - earlier.value) / (later.at - earlier.at)
        for life in judged
        for earlier, later in combinations(life, 2)
        if later.at - earlier.at >= longest / 3
    ]
    if len(slopes) < 3:
        return None
    slope, lower_quartile = median(slopes), quantiles(slopes, n=4)[0]
    middle, rose_by = median(values), slope * longest
    grows = lower_quartile > 0 and rose_by > max(metric.allowance, RELATIVE * abs(middle))
    return Trend(subject, metric, middle, max(values), slope * HOUR, rose_by, grows)


def thinned(samples: Sequence[Sample]) -> Sequence[Sample]:
    step = -(-len(samples) // MOST_POINTS)
    return samples[::step]
