"""What workers and clocks count: runs, the time until deliveries are settled, and pushes.

Every label has a bounded set of values: names of handlers and channels, states, and the events that we know.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

import redis
import structlog

from ingest.events import CHARGING_RECORD, models
from workers.ledger.delivery_states import SettledDelivery
from workers.ledger.states import Outcome, PushState
from workers.observability.redis_metrics import SharedCounts, SharedMetric

log = structlog.get_logger()

# From an event alone (tens of milliseconds) over "in time for a driver" (seconds) to what waited for a retry (hours).
SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
OTHER = "other"

RUNS = SharedMetric(
    "webhooks_runs", "Attempts at runs that ended, by handler and outcome", ("handler", "outcome"), is_hourly=True
)
RUN_SECONDS = SharedMetric(
    "webhooks_run_duration_seconds", "Time of an attempt, by handler", ("handler",), SECONDS, is_hourly=True
)
SETTLED_SECONDS = SharedMetric(
    "webhooks_delivery_settled_seconds", "From the receipt of a delivery until every run had ended", ("event",), SECONDS
)
PUSHES = SharedMetric("webhooks_pushes", "Pushes that ended, by channel and state", ("channel", "state"))
PUSH_SECONDS = SharedMetric(
    "webhooks_push_sent_seconds", "From the receipt of an event until its push was sent", ("channel",), SECONDS
)
METRICS = (RUNS, RUN_SECONDS, SETTLED_SECONDS, PUSHES, PUSH_SECONDS)

COUNTS = SharedCounts()
"""What this process has counted; a work horse inherits an empty one."""


def count_runs(outcomes: Iterable[tuple[str, Outcome]]) -> None:
    """Count committed outcomes of attempts, each with its handler; a run that waits has had none."""
    for (handler, outcome), number in Counter(outcomes).items():
        if outcome is not Outcome.WAITING:
            COUNTS.increment(RUNS, handler, outcome, by=number)


def count_settled(settled: Iterable[SettledDelivery]) -> None:
    """Count deliveries that were settled for the first time."""
    known = {CHARGING_RECORD, *models()}
    spans: defaultdict[str, list[float]] = defaultdict(list)
    for each in settled:
        event = each.event if each.event in known else OTHER
        spans[event].append((each.settled_at - each.received_at).total_seconds())
    for event, values in spans.items():
        COUNTS.observe(SETTLED_SECONDS, event, values=values)


def count_run_time(handler: str, span: timedelta) -> None:
    """Count the time of an attempt."""
    COUNTS.observe(RUN_SECONDS, handler, values=[span.total_seconds()])


def count_pushes(channel: str, state: PushState, number: int = 1) -> None:
    """Count pushes that ended."""
    if number:
        COUNTS.increment(PUSHES, channel, state, by=number)


def count_sent(channel: str, received_at: datetime, sent_at: datetime) -> None:
    """Count the time of a push that was sent."""
    COUNTS.observe(PUSH_SECONDS, channel, values=[(sent_at - received_at).total_seconds()])


def flush(connection: redis.Redis) -> None:
    """Add what was counted to Redis; without Redis it is added by the next flush of this process."""
    try:
        COUNTS.flush(connection)
    except redis.RedisError as error:
        log.debug("metrics.not_flushed", error=type(error).__name__)
