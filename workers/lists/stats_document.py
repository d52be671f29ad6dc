"""The numbers of a span, for programs."""

from workers.ledger.stats_queries import Latency, SpanStats
from workers.lists.formatting import Json, iso


def stats_json(stats: SpanStats) -> dict[str, Json]:
    """Return the numbers of a span as one object; times in seconds."""
    return {
        "since": iso(stats.since),
        "until": iso(stats.until),
        "events": stats.events,
        "deliveries": stats.deliveries,
        "warnings": stats.warnings,
        "pushes": stats.pushes,
        "authorizations": stats.authorizations,
        "runs": stats.runs,
        "latency": {name: _latency(each) for name, each in stats.latency.items()},
    }


def _latency(latency: Latency) -> Json:
    p50, p99 = (None if each is None else each.total_seconds() for each in (latency.p50, latency.p99))
    return {"count": latency.count, "p50": p50, "p99": p99}
