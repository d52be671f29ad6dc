from datetime import UTC, datetime

import pytest
import redis
from rq import SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from ingest.errors import QueueUnavailable
from ingest.queue.batch import Batch, ack_key, batch_key, lease_key
from ingest.queue.queues import QUEUES, connect_redis, queue
from ingest.relay import publisher as offers_room
from ingest.relay.outbox import Outbox
from ingest.relay.publisher import BatchPublisher


@pytest.fixture
def outbox(door):
    opened = Outbox(door.path)
    yield opened
    opened.close()


@pytest.fixture
def begin(outbox, valkey, settings):
    """Begin to offer, with nothing but what is on the disk."""
    return lambda **changed: BatchPublisher(outbox, valkey, settings.model_copy(update=changed))


@pytest.fixture
def offers(begin):
    return begin()


@pytest.fixture
def offer(outbox, offers):
    """Offer everything that waits for a queue; the batch's id."""

    def now(name: str = "sessions") -> str:
        before = {each.batch_id for each in offers.in_flight}
        offers.publish([outbox.next_batch(name, 500, 1_000_000)])
        (batch_id,) = {each.batch_id for each in offers.in_flight} - before
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


def test_a_batch_is_one_job_with_its_deliveries_beside_it(door, offer, valkey):
    ids = door.keep(3)
    batch_id = offer()
    assert jobs(valkey) == [batch_id]
    job = Job.fetch(batch_id, connection=valkey, serializer=JSONSerializer)
    assert (job.func_name, job.args) == ("workers.execution.jobs.work_batch", [batch_id])
    assert job.description == "3 deliveries: 3 SESSION_STARTED"
    assert (job.timeout, job.result_ttl, job.failure_ttl) == (210, 600, 604800)  # HANDLER_TIMEOUT is 30 s
    batch = batch_in_redis(valkey, batch_id)
    assert [delivery.id for delivery in batch.deliveries] == ids
    assert (batch.inbox, batch.queue, batch.isolated, batch.poison) == (door.inbox_id, "sessions", False, False)


def test_the_job_shows_neither_bodies_nor_users(door, offer, valkey):
    door.keep(body=b'{"payload": {"userId": "driver@example.com"}}')
    job = Job.fetch(offer(), connection=valkey, serializer=JSONSerializer)
    assert b"driver" not in repr(job.to_dict()).encode()
    assert "driver" not in job.description


def test_a_stock_worker_can_work_it(door, offer, valkey, monkeypatch):
    monkeypatch.setattr("ingest.relay.publisher.BATCH_JOB", "builtins.len")
    door.keep()
    batch_id = offer()
    SimpleWorker([queue("sessions", valkey)], connection=valkey, serializer=JSONSerializer).work(burst=True)
    job = Job.fetch(batch_id, connection=valkey, serializer=JSONSerializer)
    assert job.return_value() == len(batch_id)


def test_several_loads_go_in_one_transaction(door, outbox, offers):
    door.keep(queue="urgent")
    door.keep(queue="cdrs")
    offers.publish([outbox.next_batch("urgent", 500, 1000), outbox.next_batch("cdrs", 500, 1000)])
    assert offers.poll().waiting == {"urgent": 1, "sessions": 0, "cdrs": 1, "other": 0}
    assert [each.queue for each in offers.in_flight] == ["urgent", "cdrs"]


def test_no_receipt_goes_untold_that_comes_while_a_notice_of_repeats_is_offered(door, outbox, offers, valkey):
    (known,) = door.keep()
    door.repeat(known)
    load = outbox.next_batch("other", 500, 1000)
    door.repeat(known)  # the notice that was read stands for this one too
    assert door.count("body IS NULL") == 1
    offers.publish([load])
    (each,) = offers.in_flight
    (notice,) = batch_in_redis(valkey, each.batch_id).deliveries
    assert (notice.id, notice.body, notice.receipts) == (known, None, 3)
    door.repeat(known)  # and this one makes its own
    offers.publish([outbox.next_batch("other", 500, 1000)])
    each = offers.in_flight[-1]
    assert [delivery.receipts for delivery in batch_in_redis(valkey, each.batch_id).deliveries] == [4]


def test_a_notice_of_what_was_forgotten_meanwhile_still_tells_of_a_repeat(door, outbox, offers, valkey):
    (known,) = door.keep()
    door.repeat(known)
    load = outbox.next_batch("other", 500, 1000)
    outbox.prune_seen(datetime.now(UTC))
    offers.publish([load])
    (each,) = offers.in_flight
    assert [delivery.receipts for delivery in batch_in_redis(valkey, each.batch_id).deliveries] == [2]


def test_what_was_settled_goes(door, offer, offers, valkey):
    door.keep(3)
    settle(valkey, door.inbox_id, offer())
    assert offers.poll().settled == 1
    assert door.count() == 0
    assert offers.in_flight == []
    assert offers.is_waiting_for_workers
    assert offers.poll().settled == 0
    assert valkey.llen(ack_key(door.inbox_id)) == 0
    assert not offers.is_waiting_for_workers


def test_what_was_settled_is_crossed_off_only_when_its_rows_have_gone(door, offer, begin, valkey):
    door.keep(3)
    settle(valkey, door.inbox_id, offer())
    begin().poll()
    assert door.count() == 0
    # That one has crashed. What it had not crossed off does no harm to the next.
    following = begin()
    following.poll()
    following.poll()
    assert valkey.llen(ack_key(door.inbox_id)) == 0


def test_another_nodes_settlements_are_left_alone(offers, valkey):
    settle(valkey, "elsewhere", "batch")
    offers.poll()
    offers.poll()
    assert valkey.llen(ack_key("elsewhere")) == 1


def test_a_lost_batch_is_offered_again_whole_under_a_new_id(door, offer, offers, valkey):
    ids = door.keep(3)
    old = offer()
    offers.redeliver(offers.in_flight[0], died=False)
    (new,) = (each.batch_id for each in offers.in_flight)
    assert new != old
    assert valkey.get(batch_key(old)) is None
    batch = batch_in_redis(valkey, new)
    assert [delivery.id for delivery in batch.deliveries] == ids
    assert (batch.isolated, batch.poison) == (False, False)


def test_a_batch_settled_under_its_old_id_is_not_taken_for_the_new_one(door, offer, offers, valkey):
    door.keep(3)
    old = offer()
    offers.redeliver(offers.in_flight[0], died=False)
    settle(valkey, door.inbox_id, old)
    offers.poll()
    assert door.count() == 3
    settle(valkey, door.inbox_id, offers.in_flight[0].batch_id)
    offers.poll()
    assert door.count() == 0


def test_a_batch_whose_worker_died_comes_back_in_halves(door, offer, offers, valkey):
    ids = door.keep(3)
    old = offer()
    valkey.incr(lease_key(old))
    offers.redeliver(offers.in_flight[0], died=True)
    halves = [batch_in_redis(valkey, each.batch_id) for each in offers.in_flight]
    assert [[delivery.id for delivery in half.deliveries] for half in halves] == [ids[:1], ids[1:]]
    assert [half.isolated for half in halves] == [True, False]
    assert valkey.get(lease_key(old)) is None
    assert door.count("deaths > 0") == 0


def test_a_delivery_that_died_alone_too_often_is_poison(door, offer, offers, valkey):
    door.keep(1)
    offer()
    seen = []
    for _ in range(4):
        offers.redeliver(offers.in_flight[0], died=True)
        batch = batch_in_redis(valkey, offers.in_flight[0].batch_id)
        seen.append((offers.in_flight[0].deaths, batch.isolated, batch.poison))
    assert seen == [(1, True, False), (2, True, False), (3, True, True), (4, True, True)]


def test_deaths_outlive_the_relay(door, offer, offers, begin, valkey):
    door.keep(1)
    offer()
    offers.redeliver(offers.in_flight[0], died=True)
    following = begin()
    following.redeliver(following.in_flight[0], died=False)
    (each,) = following.in_flight
    assert each.deaths == 1
    assert batch_in_redis(valkey, each.batch_id).isolated


def test_a_batch_without_rows_is_not_offered_again(door, offer, offers, outbox, valkey):
    door.keep(1)
    batch_id = offer()
    outbox.settle([batch_id])
    offers.redeliver(offers.in_flight[0], died=True)
    assert offers.in_flight == []
    assert jobs(valkey) == [batch_id]


def test_a_redis_that_refuses_leaves_the_rows_waiting(door, outbox, offers, valkey):
    ids = door.keep(3)
    load = outbox.next_batch("sessions", 500, 1000)
    valkey.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailable, match="OutOfMemory"):
            offers.publish([load])
    finally:
        valkey.config_set("maxmemory", 0)
    assert offers.in_flight == []
    offers.publish([outbox.next_batch("sessions", 500, 1000)])
    (each,) = offers.in_flight
    assert [delivery.id for delivery in batch_in_redis(valkey, each.batch_id).deliveries] == ids


def test_what_a_redis_that_is_away_may_have_got_is_in_flight(door, outbox, settings):
    door.keep(3)
    offers = BatchPublisher(outbox, connect_redis("redis://127.0.0.1:1"), settings)
    with pytest.raises(QueueUnavailable):
        offers.poll()
    with pytest.raises(QueueUnavailable):
        offers.publish([outbox.next_batch("sessions", 500, 1000)])
    assert [each.count for each in outbox.in_flight()] == [3]
    with pytest.raises(QueueUnavailable):
        offers.redeliver(offers.in_flight[0], died=True)
    assert [each.count for each in outbox.in_flight()] == [1, 2]


def test_redis_is_not_filled_with_what_nobody_works_on(door, offer, begin):
    assert begin(batch_bytes=1000).has_room("sessions")
    door.keep(40)
    offer()
    offers = begin(batch_bytes=1000)
    assert not offers.has_room("sessions")
    assert all(offers.has_room(name) for name in QUEUES if name != "sessions")


def test_a_queue_is_full_of_small_batches_too(door, offer, begin, monkeypatch):
    monkeypatch.setattr(offers_room, "MAX_IN_FLIGHT", 3)
    for number in range(3):
        assert begin().has_room("sessions"), number
        door.keep()
        offer()
    assert not begin().has_room("sessions")
