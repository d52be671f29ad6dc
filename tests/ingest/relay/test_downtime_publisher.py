import json
import time
from datetime import UTC, datetime, timedelta

import pytest
import redis

from ingest.errors import QueueUnavailable
from ingest.inbox.downtime import KEY, Downtime
from ingest.relay.downtime_publisher import DowntimePublisher

NOW = datetime.now(UTC).replace(microsecond=0)


def gap(age, *, inbox="node-a"):
    closed_at = NOW - age
    return Downtime(closed_at, closed_at + timedelta(seconds=30), inbox)


def published(valkey):
    return {name.decode(): Downtime.from_json(value) for name, value in valkey.hgetall(KEY).items()}


def test_downtimes_of_all_nodes_are_published_in_one_hash(valkey):
    one, two = gap(timedelta(hours=1)), gap(timedelta(hours=1), inbox="node-b")
    DowntimePublisher(valkey).publish([one])
    DowntimePublisher(valkey).publish([two])
    assert published(valkey) == {f"{each.inbox}:{each.closed_at.isoformat()}": each for each in (one, two)}
    assert json.loads(valkey.hget(KEY, one.field)) == {
        "inbox": "node-a",
        "closed_at": one.closed_at.isoformat(),
        "opened_at": one.opened_at.isoformat(),
    }


def test_downtimes_older_than_eight_days_are_deleted(valkey):
    old, young = gap(timedelta(days=8, minutes=1)), gap(timedelta(days=7))
    valkey.hset(KEY, old.field, old.to_json())
    DowntimePublisher(valkey).publish([old, young])
    assert list(published(valkey).values()) == [young]


def test_new_downtimes_are_published_at_once_and_all_of_them_every_minute(valkey, monkeypatch):
    teller = DowntimePublisher(valkey)
    teller.publish([gap(timedelta(hours=2))])
    valkey.delete(KEY)  # Redis has lost its data
    teller.publish([gap(timedelta(hours=2))])
    assert published(valkey) == {}
    teller.publish([gap(timedelta(hours=2)), gap(timedelta(hours=1))])
    assert len(published(valkey)) == 2
    valkey.delete(KEY)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    teller.publish([gap(timedelta(hours=2)), gap(timedelta(hours=1))])
    assert len(published(valkey)) == 2


def test_an_unavailable_redis_raises_queue_unavailable():
    with redis.Redis(port=1, retry=None) as nobody, pytest.raises(QueueUnavailable, match="ConnectionError"):
        DowntimePublisher(nobody).publish([gap(timedelta(hours=1))])
