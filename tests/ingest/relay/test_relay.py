import shutil
import sqlite3
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import redis
import structlog

from ingest.queue.batch import ack_key
from ingest.queue.queues import queue
from ingest.relay.relay import JOIN_TIMEOUT, Relay, RelayStatus

GRACE = timedelta(milliseconds=200)
SWEEP_EVERY = timedelta(milliseconds=20)
NOWHERE = "redis://127.0.0.1:1"


@pytest.fixture
def relays(door, settings):
    """Start relays on one data folder; those still running are stopped at the end."""
    started = []

    def start(url, **changed):
        changed = settings.model_copy(update={"redis_url": url, **changed})
        relay = Relay(door.path, changed, grace=GRACE, sweep_every=SWEEP_EVERY)
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


def test_it_carries_what_is_kept_until_it_is_settled(door, relays, valkey, valkey_url, eventually):
    relay = relays(valkey_url)
    eventually(lambda: relay.status().redis_ok)
    door.keep(3)
    relay.wake()
    eventually(lambda: jobs(valkey))
    settle_all(valkey, door.inbox_id)
    eventually(lambda: door.count() == 0)
    status = relay.status()
    assert (status.leader, status.backlog, status.redis_error, status.error) == (True, 0, None, None)
    assert status.last_published_at is not None


def test_it_finds_what_another_process_keeps(door, relays, valkey, valkey_url, eventually):
    relay = relays(valkey_url)
    eventually(lambda: relay.status().redis_ok)
    door.keep()
    eventually(lambda: jobs(valkey))


def test_it_finds_what_was_kept_while_it_was_away(door, relays, valkey, valkey_url, eventually):
    door.keep()
    relays(valkey_url)
    eventually(lambda: jobs(valkey))


def test_it_stands_before_it_is_started(door, settings):
    relay = Relay(door.path, settings)
    assert relay.status() == RelayStatus()
    relay.stop()


def test_without_redis_it_waits_and_says_so(door, relays, eventually):
    relay = relays(NOWHERE)
    door.keep(3)
    # The two are found out one after the other.
    eventually(lambda: relay.status().backlog == 3 and relay.status().redis_error)
    status = relay.status()
    assert not status.redis_ok
    assert status.redis_error.startswith("ConnectionError")
    assert status.error is None


def test_without_a_redis_url_it_waits_and_says_so(relays, eventually):
    relay = relays(None)
    eventually(lambda: relay.status().redis_error == "REDIS_URL is not set")


def test_it_goes_on_when_redis_comes_back_empty(door, relays, stoppable_valkey, eventually):
    relay = relays(stoppable_valkey.url)
    eventually(lambda: relay.status().redis_ok)
    door.keep()
    relay.wake()
    eventually(lambda: relay.status().last_published_at)
    stoppable_valkey.stop()
    eventually(lambda: not relay.status().redis_ok)
    door.keep()
    stoppable_valkey.start()
    with redis.Redis.from_url(stoppable_valkey.url) as connection:
        eventually(lambda: len(jobs(connection)) == 2)
    eventually(lambda: relay.status().redis_ok)  # it says so a moment after it has offered
    assert relay.status().redis_error is None


def test_a_redis_that_is_full_is_as_if_it_were_away(door, relays, valkey, valkey_url, eventually):
    relay = relays(valkey_url)
    eventually(lambda: relay.status().redis_ok)
    valkey.config_set("maxmemory", 1)
    try:
        door.keep(3)
        eventually(lambda: (relay.status().redis_error or "").startswith("OutOfMemory"))
    finally:
        valkey.config_set("maxmemory", 0)
    eventually(lambda: jobs(valkey))
    eventually(lambda: relay.status().redis_ok)


def test_a_redis_that_only_reads_is_as_if_it_were_away(door, relays, valkey, valkey_url, eventually):
    relay = relays(valkey_url)
    eventually(lambda: relay.status().redis_ok)
    valkey.replicaof("127.0.0.1", "1")
    try:
        door.keep(3)
        eventually(lambda: (relay.status().redis_error or "").startswith("ReadOnly"))
    finally:
        valkey.replicaof("NO", "ONE")
    eventually(lambda: jobs(valkey))


def test_one_relay_of_a_data_folder_leads_and_another_takes_over(door, relays, valkey, valkey_url, eventually):
    first = relays(valkey_url)
    eventually(lambda: first.status().leader)
    second = relays(valkey_url)
    eventually(lambda: second.status().redis_ok)
    assert not second.status().leader
    door.keep()
    eventually(lambda: jobs(valkey))
    first.stop()
    assert not first.status().leader
    eventually(lambda: second.status().leader)
    door.keep()
    eventually(lambda: len(jobs(valkey)) == 2)


def test_one_that_stands_by_says_how_redis_is(relays, valkey_url, eventually):
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


def test_a_killed_leader_is_followed(door, relays, valkey, valkey_url, eventually):
    command = [sys.executable, "-c", LEADER, str(door.path), valkey_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        # Its log lines come first.
        while "leads" not in process.stdout.readline().split():
            pass
        second = relays(valkey_url)
        eventually(lambda: second.status().redis_ok)
        door.keep()
        eventually(lambda: jobs(valkey))
        process.kill()
        eventually(lambda: second.status().leader)
        # What the dead one had offered is still queued, and stays the only one.
        door.keep()
        eventually(lambda: len(jobs(valkey)) == 2)
        assert door.count("batch IS NULL") == 0


def test_stopping_offers_what_is_held_back(door, relays, valkey, valkey_url, eventually):
    relay = relays(valkey_url, hold_back=timedelta(minutes=1))
    for number in range(1, 3):
        door.keep()
        eventually(lambda number=number: len(jobs(valkey)) == number)
    door.keep(5)
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


def test_it_survives_a_file_that_cannot_be_used(door, relays, valkey_url, eventually, monkeypatch):
    failures = iter([sqlite3.OperationalError("database or disk is full"), RuntimeError("a fault of ours")])

    def fail(*_):
        if failure := next(failures, None):
            raise failure
        monkeypatch.undo()
        return []

    monkeypatch.setattr("ingest.relay.outbox.Outbox.in_flight", fail)
    relay = relays(valkey_url)
    eventually(lambda: relay.status().error == "OperationalError: database or disk is full")
    eventually(lambda: relay.status().error == "RuntimeError")  # what it says may be anything
    door.keep()
    eventually(lambda: relay.status().last_published_at)
    assert relay.status().error is None


def test_a_url_that_is_none_is_neither_shown_nor_logged(relays, eventually):
    with structlog.testing.capture_logs() as logs:
        relay = relays("redis://:s3cr/etpw@example:6379/0")
        eventually(lambda: relay.status().error)
        eventually(lambda: logs)
    assert "s3cr" not in f"{relay.status()} {logs}"


def test_a_data_folder_that_goes_away_is_an_error_and_not_an_end(door, relays, valkey_url, eventually):
    door.close()
    shutil.rmtree(door.path.parent)
    relay = relays(valkey_url)
    eventually(lambda: relay.status().error)
    door.path.parent.mkdir()
    eventually(lambda: relay.status().redis_ok)
