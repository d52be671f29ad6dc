from datetime import UTC, datetime

import pytest
import redis
from rq import SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from ingest.errors import QueueUnavailable
from ingest.queue.batch import Batch, ack_key, batch_key, lease_key
from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import connect_redis, queue
from ingest.queue.redis_memory import RedisMemory
from ingest.relay import publisher as publisher_module
from ingest.relay.outbox import Outbox
from ingest.relay.publisher import BatchPublisher


@pytest.fixture
def outbox(inbox_file):
    opened = Outbox(inbox_file.path)
    yield opened
    opened.close()


@pytest.fixture
def begin(outbox, valkey, settings):
    """Create a publisher that starts from the disk."""
    return lambda **changed: BatchPublisher(outbox, valkey, settings.model_copy(update=changed))


@pytest.fixture
def publisher(begin):
    return begin()


@pytest.fixture
def publish(outbox, publisher):
    """Publish everything that waits for a queue; return the id of the batch."""

    def now(name: str = "sessions") -> str:
        before = {each.batch_id for each in publisher.in_flight}
        publisher.publish([outbox.next_batch(name, 500, 1_000_000)])
        (batch_id,) = {each.batch_id for each in publisher.in_flight} - before
        return batch_id

    return now


def batch_in_redis(valkey: redis.Redis, batch_id: str) -> Batch:
    return Batch.from_json(valkey.get(batch_key(batch_id)))


def jobs(valkey: redis.Redis, name: str = "sessions") -> list[str]:
    return queue(name, valkey).job_ids


def settle(valkey: redis.Redis, inbox_id: str, batch_id: str) -> None:
    with valkey.pipeline() as pipe:
        pipe.rpush(ack_key(inbox_id), batch_id)
        pipe.delete(batch_key(batch_id), lease_key(batch_id))
        pipe.execute()


def test_a_batch_is_one_job_with_its_deliveries_beside_it(inbox_file, publish, valkey):
    ids = inbox_file.insert(3)
    batch_id = publish()
    assert jobs(valkey) == [batch_id]
    job = Job.fetch(batch_id, connection=valkey, serializer=JSONSerializer)
    assert (job.func_name, job.args) == ("workers.execution.jobs.work_batch", [batch_id])
    assert job.description == "3 deliveries: 3 SESSION_STARTED"
    assert (job.timeout, job.result_ttl, job.failure_ttl) == (210, 600, 604800)  # HANDLER_TIMEOUT is 30 s
    batch = batch_in_redis(valkey, batch_id)
    assert [delivery.id for delivery in batch.deliveries] == ids
    assert (batch.inbox, batch.queue, batch.isolated, batch.poison) == (inbox_file.inbox_id, "sessions", False, False)


def test_the_job_shows_neither_bodies_nor_users(inbox_file, publish, valkey):
    inbox_file.insert(body=b'{"payload": {"userId": "driver@example.com"}}')
    job = Job.fetch(publish(), connection=valkey, serializer=JSONSerializer)
    assert b"driver" not in repr(job.to_dict()).encode()
    assert "driver" not in job.description


def test_a_stock_worker_can_work_it(inbox_file, publish, valkey, monkeypatch):
    monkeypatch.setattr("ingest.relay.publisher.BATCH_JOB", "builtins.len")
    inbox_file.insert()
    batch_id = publish()
    SimpleWorker([queue("sessions", valkey)], connection=valkey, serializer=JSONSerializer).work(burst=True)
    job = Job.fetch(batch_id, connection=valkey, serializer=JSONSerializer)
    assert job.return_value() == len(batch_id)


def test_several_slices_are_published_in_one_transaction(inbox_file, outbox, publisher):
    inbox_file.insert(queue="urgent")
    inbox_file.insert(queue="cdrs")
    publisher.publish([outbox.next_batch("urgent", 500, 1000), outbox.next_batch("cdrs", 500, 1000)])
    assert publisher.poll().waiting == {"urgent": 1, "sessions": 0, "cdrs": 1, "other": 0, "background": 0}
    assert [each.queue for each in publisher.in_flight] == ["urgent", "cdrs"]


def test_a_receipt_during_the_publication_of_a_notice_is_counted(inbox_file, outbox, publisher, valkey):
    (known,) = inbox_file.insert()
    inbox_file.receive_again(known)
    rows = outbox.next_batch("other", 500, 1000)
    inbox_file.receive_again(known)  # the notice that was read stands for this one too
    assert inbox_file.count("body IS NULL") == 1
    publisher.publish([rows])
    (each,) = publisher.in_flight
    (notice,) = batch_in_redis(valkey, each.batch_id).deliveries
    assert (notice.id, notice.body, notice.receipts) == (known, None, 3)
    inbox_file.receive_again(known)  # and this one has its own
    publisher.publish([outbox.next_batch("other", 500, 1000)])
    each = publisher.in_flight[-1]
    assert [delivery.receipts for delivery in batch_in_redis(valkey, each.batch_id).deliveries] == [4]


def test_a_notice_whose_delivery_was_pruned_still_counts_two_receipts(inbox_file, outbox, publisher, valkey):
    (known,) = inbox_file.insert()
    inbox_file.receive_again(known)
    rows = outbox.next_batch("other", 500, 1000)
    outbox.prune_seen(datetime.now(UTC))
    publisher.publish([rows])
    (each,) = publisher.in_flight
    assert [delivery.receipts for delivery in batch_in_redis(valkey, each.batch_id).deliveries] == [2]


def test_acknowledged_batches_are_settled(inbox_file, publish, publisher, valkey):
    inbox_file.insert(3)
    settle(valkey, inbox_file.inbox_id, publish())
    assert publisher.poll().settled == 1
    assert inbox_file.count() == 0
    assert publisher.in_flight == []
    assert publisher.is_waiting_for_workers
    assert publisher.poll().settled == 0
    assert valkey.llen(ack_key(inbox_file.inbox_id)) == 0
    assert not publisher.is_waiting_for_workers


def test_acknowledgements_are_removed_after_the_rows(inbox_file, publish, begin, valkey):
    inbox_file.insert(3)
    settle(valkey, inbox_file.inbox_id, publish())
    begin().poll()
    assert inbox_file.count() == 0
    # That publisher has crashed. An acknowledgement that it did not remove does no harm to the next.
    following = begin()
    following.poll()
    following.poll()
    assert valkey.llen(ack_key(inbox_file.inbox_id)) == 0


def test_acknowledgements_of_another_node_are_left_alone(publisher, valkey):
    settle(valkey, "elsewhere", "batch")
    publisher.poll()
    publisher.poll()
    assert valkey.llen(ack_key("elsewhere")) == 1


def test_a_lost_batch_is_redelivered_whole_under_a_new_id(inbox_file, publish, publisher, valkey):
    ids = inbox_file.insert(3)
    old = publish()
    publisher.redeliver(publisher.in_flight[0], died=False)
    (new,) = (each.batch_id for each in publisher.in_flight)
    assert new != old
    assert valkey.get(batch_key(old)) is None
    batch = batch_in_redis(valkey, new)
    assert [delivery.id for delivery in batch.deliveries] == ids
    assert (batch.isolated, batch.poison) == (False, False)


def test_an_acknowledgement_of_the_old_id_does_not_settle_the_new_batch(inbox_file, publish, publisher, valkey):
    inbox_file.insert(3)
    old = publish()
    publisher.redeliver(publisher.in_flight[0], died=False)
    settle(valkey, inbox_file.inbox_id, old)
    publisher.poll()
    assert inbox_file.count() == 3
    settle(valkey, inbox_file.inbox_id, publisher.in_flight[0].batch_id)
    publisher.poll()
    assert inbox_file.count() == 0


def test_a_batch_whose_worker_died_is_redelivered_as_two_halves(inbox_file, publish, publisher, valkey):
    ids = inbox_file.insert(3)
    old = publish()
    valkey.incr(lease_key(old))
    publisher.redeliver(publisher.in_flight[0], died=True)
    halves = [batch_in_redis(valkey, each.batch_id) for each in publisher.in_flight]
    assert [[delivery.id for delivery in half.deliveries] for half in halves] == [ids[:1], ids[1:]]
    assert [half.isolated for half in halves] == [True, False]
    assert valkey.get(lease_key(old)) is None
    assert inbox_file.count("deaths > 0") == 0


def test_a_delivery_that_died_alone_too_often_is_poison(inbox_file, publish, publisher, valkey):
    inbox_file.insert(1)
    publish()
    seen = []
    for _ in range(4):
        publisher.redeliver(publisher.in_flight[0], died=True)
        batch = batch_in_redis(valkey, publisher.in_flight[0].batch_id)
        seen.append((publisher.in_flight[0].deaths, batch.isolated, batch.poison))
    assert seen == [(1, True, False), (2, True, False), (3, True, True), (4, True, True)]


def test_deaths_outlive_the_relay(inbox_file, publish, publisher, begin, valkey):
    inbox_file.insert(1)
    publish()
    publisher.redeliver(publisher.in_flight[0], died=True)
    following = begin()
    following.redeliver(following.in_flight[0], died=False)
    (each,) = following.in_flight
    assert each.deaths == 1
    assert batch_in_redis(valkey, each.batch_id).isolated


def test_a_batch_without_rows_is_not_redelivered(inbox_file, publish, publisher, outbox, valkey):
    inbox_file.insert(1)
    batch_id = publish()
    outbox.settle([batch_id])
    publisher.redeliver(publisher.in_flight[0], died=True)
    assert publisher.in_flight == []
    assert jobs(valkey) == [batch_id]


def test_a_redis_that_refuses_leaves_the_rows_waiting(inbox_file, outbox, publisher, valkey):
    ids = inbox_file.insert(3)
    rows = outbox.next_batch("sessions", 500, 1000)
    valkey.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailable, match="OutOfMemory"):
            publisher.publish([rows])
    finally:
        valkey.config_set("maxmemory", 0)
    assert publisher.in_flight == []
    publisher.publish([outbox.next_batch("sessions", 500, 1000)])
    (each,) = publisher.in_flight
    assert [delivery.id for delivery in batch_in_redis(valkey, each.batch_id).deliveries] == ids


def test_a_batch_is_in_flight_if_redis_fails_while_it_is_published(inbox_file, outbox, settings):
    inbox_file.insert(3)
    publisher = BatchPublisher(outbox, connect_redis("redis://127.0.0.1:1"), settings)
    with pytest.raises(QueueUnavailable):
        publisher.poll()
    with pytest.raises(QueueUnavailable):
        publisher.publish([outbox.next_batch("sessions", 500, 1000)])
    assert [each.count for each in outbox.in_flight()] == [3]
    with pytest.raises(QueueUnavailable):
        publisher.redeliver(publisher.in_flight[0], died=True)
    assert [each.count for each in outbox.in_flight()] == [1, 2]


def test_a_queue_in_redis_is_bounded_in_bytes(inbox_file, publish, begin):
    assert begin(batch_bytes=1000).has_room("sessions")
    inbox_file.insert(40)
    publish()
    publisher = begin(batch_bytes=1000)
    assert not publisher.has_room("sessions")
    assert all(publisher.has_room(name) for name in QUEUES if name != "sessions")


def test_a_queue_in_redis_is_bounded_in_batches(inbox_file, publish, begin, monkeypatch):
    monkeypatch.setattr(publisher_module, "MAX_IN_FLIGHT", 3)
    for number in range(3):
        assert begin().has_room("sessions"), number
        inbox_file.insert()
        publish()
    assert not begin().has_room("sessions")


def test_while_redis_is_nearly_full_one_batch_of_a_queue_is_published_at_a_time(begin, outbox, inbox_file, monkeypatch):
    monkeypatch.setattr("ingest.relay.publisher.read_memory", lambda _connection: RedisMemory(90, 100, "noeviction"))
    publisher = begin()
    inbox_file.insert(2)
    assert publisher.has_room("sessions")
    publisher.publish([outbox.next_batch("sessions", 1, 1000)])
    assert not publisher.has_room("sessions")
    assert publisher.has_room("urgent")


@pytest.mark.parametrize("memory", [None, RedisMemory(90, 0, "noeviction"), RedisMemory(10, 100, "noeviction")])
def test_with_memory_left_or_unknown_more_batches_are_published(begin, outbox, inbox_file, monkeypatch, memory):
    monkeypatch.setattr("ingest.relay.publisher.read_memory", lambda _connection: memory)
    publisher = begin()
    inbox_file.insert(2)
    publisher.publish([outbox.next_batch("sessions", 1, 1000)])
    assert publisher.has_room("sessions")
