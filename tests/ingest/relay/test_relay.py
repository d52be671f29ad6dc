import shutil
import sqlite3
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import structlog

from ingest.queue.batch import ack_key
from ingest.queue.redis_client import connect_queues, queue
from ingest.relay.relay import JOIN_TIMEOUT, Relay, RelayStatus
from tests.conftest import NAMESPACE

GRACE = timedelta(milliseconds=200)
SWEEP_EVERY = timedelta(milliseconds=20)
NOWHERE = "redis://127.0.0.1:1"


@pytest.fixture
def relays(inbox_file, settings):
    """Start relays on one data folder; those still running are stopped at the end."""
    started = []

    def start(url, **changed):
        changed = settings.model_copy(update={"redis_url": url, **changed})
        relay = Relay(inbox_file.path, changed, grace=GRACE, sweep_every=SWEEP_EVERY)
        relay.start()
        started.append(relay)
        return relay

    yield start
    for relay in started:
        relay.stop()


def jobs(connection, name="sessions"):
    return queue(name, connection).job_ids


def settle_all(connection, inbox_id):
    for name in ("sessions", "urgent"):
        for batch_id in jobs(connection, name):
            connection.lrem(queue(name, connection).key, 1, batch_id)
            connection.rpush(ack_key(inbox_id), batch_id)


def test_the_relay_publishes_and_settles(inbox_file, relays, valkey, valkey_url, eventually):
    relay = relays(valkey_url)
    eventually(lambda: relay.status().redis_ok)
    inbox_file.insert(3)
    relay.wake()
    eventually(lambda: jobs(valkey))
    settle_all(valkey, inbox_file.inbox_id)
    eventually(lambda: inbox_file.count() == 0)
    status = relay.status()
    assert (status.leader, status.backlog, status.redis_error, status.error) == (True, 0, None, None)
    assert status.last_published_at is not None


def test_deliveries_of_another_process_are_published(inbox_file, relays, valkey, valkey_url, eventually):
    relay = relays(valkey_url)
    eventually(lambda: relay.status().redis_ok)
    inbox_file.insert()
    eventually(lambda: jobs(valkey))


def test_deliveries_from_before_the_start_are_published(inbox_file, relays, valkey, valkey_url, eventually):
    inbox_file.insert()
    relays(valkey_url)
    eventually(lambda: jobs(valkey))


def test_there_is_a_status_before_the_start(inbox_file, settings):
    relay = Relay(inbox_file.path, settings)
    assert relay.status() == RelayStatus()
    relay.stop()


def test_without_redis_the_relay_waits_and_reports_it(inbox_file, relays, eventually):
    relay = relays(NOWHERE)
    inbox_file.insert(3)
    # The two are detected one after the other.
    eventually(lambda: relay.status().backlog == 3 and relay.status().redis_error)
    status = relay.status()
    assert not status.redis_ok
    assert status.redis_error.startswith("ConnectionError")
    assert status.error is None


def test_without_a_redis_url_the_relay_waits_and_reports_it(relays, eventually):
    relay = relays(None)
    eventually(lambda: relay.status().redis_error == "REDIS_URL is not set")


def test_the_relay_redelivers_when_redis_comes_back_empty(inbox_file, relays, stoppable_valkey, eventually):
    relay = relays(stoppable_valkey.url)
    eventually(lambda: relay.status().redis_ok)
    inbox_file.insert()
    relay.wake()
    eventually(lambda: relay.status().last_published_at)
    stoppable_valkey.stop()
    eventually(lambda: not relay.status().redis_ok)
    inbox_file.insert()
    stoppable_valkey.start()
    with connect_queues(stoppable_valkey.url, NAMESPACE) as connection:
        eventually(lambda: len(jobs(connection)) == 2)
    eventually(lambda: relay.status().redis_ok)  # set a moment after the publication
    assert relay.status().redis_error is None


def test_a_redis_without_memory_counts_as_unavailable(inbox_file, relays, valkey, valkey_url, eventually):
    relay = relays(valkey_url)
    eventually(lambda: relay.status().redis_ok)
    valkey.config_set("maxmemory", 1)
    try:
        inbox_file.insert(3)
        eventually(lambda: (relay.status().redis_error or "").startswith("OutOfMemory"))
    finally:
        valkey.config_set("maxmemory", 0)
    eventually(lambda: jobs(valkey))
    eventually(lambda: relay.status().redis_ok)


def test_a_read_only_redis_counts_as_unavailable(inbox_file, relays, valkey, valkey_url, eventually):
    relay = relays(valkey_url)
    eventually(lambda: relay.status().redis_ok)
    valkey.replicaof("127.0.0.1", "1")
    try:
        inbox_file.insert(3)
        eventually(lambda: (relay.status().redis_error or "").startswith("ReadOnly"))
    finally:
        valkey.replicaof("NO", "ONE")
    eventually(lambda: jobs(valkey))


def test_one_relay_of_a_data_folder_leads_and_another_takes_over(inbox_file, relays, valkey, valkey_url, eventually):
    first = relays(valkey_url)
    eventually(lambda: first.status().leader)
    second = relays(valkey_url)
    eventually(lambda: second.status().redis_ok)
    assert not second.status().leader
    inbox_file.insert()
    eventually(lambda: jobs(valkey))
    first.stop()
    assert not first.status().leader
    eventually(lambda: second.status().leader)
    inbox_file.insert()
    eventually(lambda: len(jobs(valkey)) == 2)


def test_a_follower_reports_the_state_of_redis(relays, valkey_url, eventually):
    first = relays(valkey_url)
    eventually(lambda: first.status().leader)
    second = relays(NOWHERE)
    eventually(lambda: second.status().redis_error == "ConnectionError")
    assert not second.status().redis_ok


LEADER = """
import sys, time
from pathlib import Path
from ingest.relay.relay import Relay
from ingest.config.settings import load_settings
path = Path(sys.argv[1])
relay = Relay(path, load_settings(data_dir=path.parent, redis_url=sys.argv[2], plugsurfing_hmac_current="a key"))
relay.start()
while not relay.status().redis_ok:
    time.sleep(0.01)
print("leads", flush=True)
time.sleep(60)
"""


def test_a_follower_succeeds_a_killed_leader(inbox_file, relays, valkey, valkey_url, eventually):
    command = [sys.executable, "-c", LEADER, str(inbox_file.path), valkey_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        # Its log lines come first.
        while "leads" not in process.stdout.readline().split():
            pass
        second = relays(valkey_url)
        eventually(lambda: second.status().redis_ok)
        inbox_file.insert()
        eventually(lambda: jobs(valkey))
        process.kill()
        eventually(lambda: second.status().leader)
        # What the dead leader published is still queued, and is not published twice.
        inbox_file.insert()
        eventually(lambda: len(jobs(valkey)) == 2)
        assert inbox_file.count("batch IS NULL") == 0


def test_stopping_publishes_lingering_deliveries(inbox_file, relays, valkey, valkey_url, eventually):
    relay = relays(valkey_url, hold_back=timedelta(minutes=1))
    for number in range(1, 3):
        inbox_file.insert()
        eventually(lambda number=number: len(jobs(valkey)) == number)
    inbox_file.insert(5)
    eventually(lambda: relay.status().backlog == 5)
    relay.stop()
    assert len(jobs(valkey)) == 3
    assert relay.status().backlog == 0


def test_stopping_without_redis_is_quick(relays, eventually):
    relay = relays(NOWHERE)
    eventually(lambda: relay.status().redis_error)
    began = time.monotonic()
    relay.stop()
    assert time.monotonic() - began < JOIN_TIMEOUT


def test_the_relay_survives_a_file_that_cannot_be_used(inbox_file, relays, valkey_url, eventually, monkeypatch):
    failures = iter([sqlite3.OperationalError("database or disk is full"), RuntimeError("a fault of ours")])

    def fail(*_):
        if failure := next(failures, None):
            raise failure
        monkeypatch.undo()
        return []

    monkeypatch.setattr("ingest.relay.outbox.Outbox.in_flight", fail)
    relay = relays(valkey_url)
    eventually(lambda: relay.status().error == "OperationalError: database or disk is full")
    eventually(lambda: relay.status().error == "RuntimeError")  # its text may contain anything
    inbox_file.insert()
    eventually(lambda: relay.status().last_published_at)
    assert relay.status().error is None


def test_an_invalid_url_is_neither_shown_nor_logged(relays, eventually):
    with structlog.testing.capture_logs() as logs:
        relay = relays("redis://:s3cr/etpw@example:6379/0")
        eventually(lambda: relay.status().error)
        eventually(lambda: logs)
    assert "s3cr" not in f"{relay.status()} {logs}"


def test_the_relay_survives_the_loss_of_its_data_folder(inbox_file, relays, valkey_url, eventually):
    inbox_file.close()
    shutil.rmtree(inbox_file.path.parent)
    relay = relays(valkey_url)
    eventually(lambda: relay.status().error)
    inbox_file.path.parent.mkdir()
    eventually(lambda: relay.status().redis_ok)
