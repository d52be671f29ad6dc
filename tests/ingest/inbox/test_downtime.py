from datetime import UTC, datetime, timedelta

from ingest.inbox.downtime import Downtime


def test_a_downtime_has_a_length():
    closed_at = datetime.now(UTC)
    assert Downtime(closed_at, closed_at + timedelta(seconds=30), "node-a").length == timedelta(seconds=30)
