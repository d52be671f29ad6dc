"""Publishes the downtimes of a node to Redis, where the clock finds those of all nodes."""

import time
from datetime import UTC, datetime, timedelta

import redis

from ingest.errors import QueueUnavailable
from ingest.inbox.downtime import KEY, Downtime

# Plugsurfing resends CDRs for seven days. Older downtimes are in the ledger by then.
PUBLISH_FOR = timedelta(days=8)
PUBLISH_EVERY = 60.0


class DowntimePublisher:
    """Publishes the downtimes of one node to Redis: each at once and again every minute, for eight days."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._published: list[Downtime] = []
        self._published_at = float("-inf")

    def publish(self, downtimes: list[Downtime]) -> None:
        """Publish the downtimes if any is new or a minute is over. Raise QueueUnavailable."""
        if downtimes == self._published and time.monotonic() < self._published_at + PUBLISH_EVERY:
            return
        before = datetime.now(UTC) - PUBLISH_FOR
        young = {each.field: each.to_json() for each in downtimes if each.opened_at > before}
        old = [each.field for each in downtimes if each.opened_at <= before]
        try:
            if young:
                self._redis.hset(KEY, mapping=young)  # type: ignore[arg-type]  # redis-py's keys are invariant
            if old:
                self._redis.hdel(KEY, *old)
        except redis.RedisError as error:
            raise QueueUnavailable(type(error).__name__) from error
        self._published, self._published_at = downtimes, time.monotonic()
