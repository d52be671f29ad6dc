"""What `serve` reports of itself and of its inbox, which no other process can read."""

import contextlib
import sqlite3
import time
from datetime import timedelta

import pytest
import redis
from structlog.testing import capture_logs

from ingest.queue import process_monitor
from ingest.queue.process_registry import NodeReport, ProcessRegistry, ProcessType
from ingest.relay.outbox import Outbox
from ingest.relay.relay_heartbeat import RelayHeartbeat
from tests.ingest.conftest import InboxFile

INSERT = "INSERT INTO quarantine (kind, received_at, reason, headers, body) VALUES ('events', ?, ?, '{}', x'')"


def test_it_reports_the_oldest_delivery_of_each_queue_and_what_was_put_in_quarantine_lately(
    inbox_file: InboxFile, valkey: redis.Redis
) -> None:
    now = time.time()
    inbox_file.insert(2, queue="urgent", received_at=now - 30)
    inbox_file.insert(queue="sessions", received_at=now - 90)
    with contextlib.closing(sqlite3.connect(inbox_file.path)) as file, file:
        long_ago = now - NodeReport.SPAN.total_seconds() - 5
        file.executemany(
            INSERT, [(now, "There is no signature."), (now, "Wrong."), (now, "Wrong."), (long_ago, "Wrong.")]
        )
    with contextlib.closing(Outbox(inbox_file.path)) as outbox:
        outbox.assign([("batch", outbox.next_batch("sessions", 10, 1000))])
        inbox_file.insert(queue="sessions", received_at=now - 10)
        heartbeat = RelayHeartbeat(outbox, valkey)
        heartbeat.beat()
        valkey.delete("webhooks:processes")
        heartbeat.beat()  # not due yet
        assert ProcessRegistry(valkey).processes() == []
        heartbeat = RelayHeartbeat(outbox, valkey)
        heartbeat.beat()
    (record,) = ProcessRegistry(valkey).processes()
    assert (record.process, record.id) == (ProcessType.SERVE, inbox_file.inbox_id)
    assert record.node is not None
    assert record.node.quarantined == {"Wrong.": 2, "There is no signature.": 1}
    assert {queue: round(age / 10) * 10 for queue, age in record.node.oldest.items()} == {"urgent": 30, "sessions": 90}
    assert record.node.waiting == 3
    assert record.node.oldest_waiting == pytest.approx(30, abs=5)


def test_it_logs_that_no_worker_and_no_clock_run_for_a_while(
    inbox_file: InboxFile, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_monitor, "START_PATIENCE", timedelta())
    with contextlib.closing(Outbox(inbox_file.path)) as outbox, capture_logs() as logs:
        RelayHeartbeat(outbox, valkey).beat()
    assert {line["gone"] for line in logs if line["event"] == "process.gone"} == {"work", "clock"}


def test_a_stopped_node_says_so(inbox_file: InboxFile, valkey: redis.Redis) -> None:
    with contextlib.closing(Outbox(inbox_file.path)) as outbox:
        heartbeat = RelayHeartbeat(outbox, valkey)
        heartbeat.beat()
        heartbeat.stop()
    (record,) = ProcessRegistry(valkey).processes()
    assert record.is_stopped
