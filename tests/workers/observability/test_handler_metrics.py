"""How handlers did in the last day and in the last week, counted by the hour in Redis."""

from datetime import timedelta

import pytest

from ingest.wire.timestamps import utc_now
from workers.ledger.states import Outcome
from workers.observability import redis_metrics, work_metrics
from workers.observability.handler_metrics import read_handler_metrics
from workers.observability.redis_metrics import HOUR_FORMAT, SharedCounts

HOUR = timedelta(hours=1)


@pytest.fixture
def count(valkey, monkeypatch):
    """Count runs of a handler as they end at some time."""

    def count(at, outcome, times=1, seconds=0.02):
        counts = SharedCounts()
        monkeypatch.setattr(work_metrics, "COUNTS", counts)
        monkeypatch.setattr(redis_metrics, "utc_now", lambda: at)
        work_metrics.count_runs([("warn", outcome)] * times)
        for _ in range(times):
            work_metrics.count_run_time("warn", timedelta(seconds=seconds))
        work_metrics.flush(valkey)

    return count


def test_runs_are_counted_by_their_end_in_the_last_day_and_week(valkey, count):
    now = utc_now()
    count(now, Outcome.DONE, times=96)
    count(now - 2 * HOUR, Outcome.MOOT, times=3)
    count(now - 3 * HOUR, Outcome.DEAD, seconds=40)
    count(now - 30 * HOUR, Outcome.DONE, times=100)
    count(now - 30 * HOUR, Outcome.AGAIN, times=20, seconds=3)
    count(now - 200 * HOUR, Outcome.DEAD, times=5)
    day, week = (span["warn"] for span in read_handler_metrics(valkey, now))
    assert (day.ended, day.dead, day.again, day.success) == (100, 1, 0, 0.99)
    assert day.p95 == timedelta(seconds=0.025)
    assert (week.ended, week.dead, week.again, week.success) == (200, 1, 20, 0.995)
    assert week.p95 == timedelta(seconds=5)


def test_an_hour_is_forgotten_after_eight_days(valkey, count):
    now = utc_now()
    count(now, Outcome.DONE)
    assert 0 < valkey.ttl(now.strftime(HOUR_FORMAT)) <= 8 * 86_400


def test_a_handler_that_never_ran_is_not_among_them(valkey):
    assert read_handler_metrics(valkey, utc_now()) == ({}, {})
