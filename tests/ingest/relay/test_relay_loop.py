import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from ingest.queue.batch import Batch, ack_key, batch_key, lease_key
from ingest.queue.redis_client import queue
from ingest.relay.outbox import Outbox
from ingest.relay.relay_loop import POLL, RelayLoop

GRACE = timedelta(milliseconds=100)
SWEEP_EVERY = timedelta(milliseconds=10)
SOONEST = timedelta(seconds=5)


class Workers:
    """Takes jobs off a queue and settles them when a test wants."""

    def __init__(self, connection, inbox_id):
        self.connection = connection
        self.inbox_id = inbox_id

    def jobs(self, name="sessions"):
        return queue(name, self.connection).job_ids

    def sizes(self, name="sessions"):
        return [len(self.batch(batch_id).deliveries) for batch_id in self.jobs(name)]

    def batch(self, batch_id):
        return Batch.from_json(self.connection.get(batch_key(batch_id)))

    def take(self, name="sessions"):
        return self.batch(self.connection.lpop(queue(name, self.connection).key).decode())

    def settle(self, batch):
        with self.connection.pipeline() as pipe:
            pipe.rpush(ack_key(self.inbox_id), batch.id)
            pipe.delete(batch_key(batch.id), lease_key(batch.id))
            pipe.execute()


@pytest.fixture
def workers(valkey, inbox_file):
    return Workers(valkey, inbox_file.inbox_id)


@pytest.fixture
def begin(inbox_file, valkey, settings):
    """Create a loop that starts from the disk."""
    opened = []

    def loop(*, sweep_every=SWEEP_EVERY, **changed):
        opened.append(Outbox(inbox_file.path))
        changed = {"hold_back": SOONEST, **changed}
        return RelayLoop(opened[-1], valkey, settings.model_copy(update=changed), GRACE, sweep_every)

    yield loop
    for outbox in opened:
        outbox.close()


@pytest.fixture
def loop(begin):
    return begin()


def test_one_event_travels_alone_and_at_once(inbox_file, loop, workers):
    inbox_file.insert()
    loop.tick()
    assert workers.sizes() == [1]
    assert datetime.now(UTC) - loop.last_published_at < timedelta(seconds=10)


def test_many_together_travel_together(inbox_file, loop, workers):
    inbox_file.insert(100)
    loop.tick()
    assert workers.sizes() == [100]


def test_a_batch_grows_while_its_queue_has_enough_jobs(inbox_file, loop, workers):
    for _ in range(10):
        inbox_file.insert(10)
        loop.tick()
    assert workers.sizes() == [10, 10]
    workers.take()
    loop.tick()
    assert workers.sizes() == [10, 80]


def test_deliveries_linger_only_so_long(inbox_file, begin, workers, eventually):
    loop = begin(hold_back=timedelta(seconds=1))
    for _ in range(2):
        inbox_file.insert()
        loop.tick()
    inbox_file.insert(5)
    loop.tick()
    assert workers.sizes() == [1, 1]
    eventually(lambda: loop.tick() or len(workers.jobs()) == 3)
    assert workers.sizes() == [1, 1, 5]


def test_nothing_lingers_because_the_clock_was_set_back(inbox_file, loop, workers):
    for _ in range(3):
        inbox_file.insert(received_at=time.time() + 3600)
        loop.tick()
    assert workers.sizes() == [1, 1, 1]


def test_a_batch_is_bounded(inbox_file, begin, workers):
    inbox_file.insert(5)
    loop = begin(batch_deliveries=3)
    loop.tick()
    loop.tick()
    loop.tick()
    assert workers.sizes() == [3, 2]


def test_a_full_queue_does_not_make_another_linger(inbox_file, loop, workers):
    for _ in range(3):
        inbox_file.insert()
        loop.tick()
    inbox_file.insert(queue="urgent")
    loop.tick()
    assert workers.sizes("sessions") == [1, 1]
    assert workers.sizes("urgent") == [1]


def test_deliveries_beyond_the_bound_of_redis_wait_however_old(inbox_file, begin, workers):
    loop = begin(batch_bytes=1000, hold_back=timedelta())
    inbox_file.insert(40)
    loop.tick()
    inbox_file.insert()
    loop.tick()
    assert workers.sizes() == [40]
    workers.settle(workers.take())
    loop.tick()
    assert workers.sizes() == [1]


def test_the_backlog_is_counted(inbox_file, begin, eventually):
    loop = begin()
    for _ in range(2):
        inbox_file.insert()
        loop.tick()
    inbox_file.insert(7)
    eventually(lambda: loop.tick() or loop.backlog == 7, seconds=4)


def test_an_emptied_redis_loses_nothing(inbox_file, loop, workers, eventually):
    inbox_file.insert(3)
    inbox_file.insert(2, queue="urgent")
    loop.tick()
    before = set(workers.jobs())
    workers.connection.flushall()
    eventually(lambda: loop.tick() or (workers.jobs() and workers.jobs("urgent")))
    assert workers.sizes() == [3]
    assert workers.sizes("urgent") == [2]
    assert before.isdisjoint(workers.jobs())


def test_a_worker_without_a_heartbeat_loses_nothing(inbox_file, loop, workers, eventually):
    inbox_file.insert(3)
    loop.tick()
    taken = workers.take()
    eventually(lambda: loop.tick() or workers.jobs())
    assert workers.sizes() == [3]
    assert workers.jobs() != [taken.id]


def test_a_batch_that_is_queued_or_worked_on_is_left_alone(inbox_file, loop, workers):
    inbox_file.insert()
    loop.tick()
    taken = workers.take()
    inbox_file.insert()
    loop.tick()
    before = workers.jobs()
    until = time.monotonic() + 5 * GRACE.total_seconds()
    while time.monotonic() < until:
        workers.connection.incr(lease_key(taken.id))
        loop.tick()
    assert workers.jobs() == before


def test_a_restart_does_not_redeliver_what_is_still_queued(inbox_file, loop, begin, workers):
    inbox_file.insert(3)
    loop.tick()
    before = workers.jobs()
    following = begin()
    until = time.monotonic() + 3 * GRACE.total_seconds()
    while time.monotonic() < until:
        following.tick()
    assert workers.jobs() == before


def test_a_crash_between_the_disk_and_redis_loses_nothing(inbox_file, begin, workers, eventually):
    inbox_file.insert(3)
    outbox = Outbox(inbox_file.path)
    outbox.assign([("never-sent", outbox.next_batch("sessions", 10, 1000))])
    outbox.close()
    loop = begin()
    eventually(lambda: loop.tick() or workers.jobs())
    assert workers.sizes() == [3]


def test_a_batch_that_kills_its_workers_is_split_until_only_the_poison_is_left(inbox_file, loop, workers, eventually):
    ids = inbox_file.insert(9)
    poison = ids[5]
    sizes, deaths_alone = [], 0
    loop.tick()
    while True:
        batch = workers.take()
        if batch.poison:
            break
        if poison in [delivery.id for delivery in batch.deliveries]:
            sizes.append(len(batch.deliveries))
            deaths_alone += batch.isolated
            workers.connection.incr(lease_key(batch.id))  # one heartbeat only
        else:
            workers.settle(batch)
        eventually(lambda: loop.tick() or workers.jobs())
    assert [delivery.id for delivery in batch.deliveries] == [poison]
    assert sizes == [9, 5, 2, 1, 1, 1]
    assert deaths_alone == 3
    workers.settle(batch)
    loop.tick()
    assert inbox_file.count() == 0


def test_halves_do_not_linger(inbox_file, loop, workers, eventually):
    inbox_file.insert(4)
    loop.tick()
    killer = workers.take()
    workers.connection.incr(lease_key(killer.id))
    for _ in range(2):
        inbox_file.insert()
        loop.tick()
    eventually(lambda: loop.tick() or len(workers.jobs()) == 4)
    assert workers.sizes() == [1, 1, 2, 2]


def test_old_ids_are_pruned(inbox_file, begin):
    (old,) = inbox_file.remember(at=1_000_000_000)
    (new,) = inbox_file.remember()
    begin(duplicates_remembered=timedelta(days=8)).tick()
    assert not inbox_file.remembers(old)
    assert inbox_file.remembers(new)


def test_ids_are_pruned_a_few_at_a_time(inbox_file, begin, eventually):
    old = inbox_file.remember(1001, at=1_000_000_000)
    loop = begin()
    loop.tick()
    left = sum(map(inbox_file.remembers, old))
    assert left == 501
    eventually(lambda: loop.tick() or not any(map(inbox_file.remembers, old)))


def test_a_drain_publishes_everything_that_lingers(inbox_file, begin, workers):
    loop = begin(batch_deliveries=2)
    for _ in range(2):
        inbox_file.insert()
        loop.tick()
    inbox_file.insert(5)
    loop.tick()
    loop.drain(time.monotonic() + 5)
    assert workers.sizes() == [1, 1, 2, 2, 1]
    assert loop.backlog == 0


def test_a_drain_ends_in_time(inbox_file, begin, workers):
    loop = begin(batch_deliveries=1)
    inbox_file.insert(100)
    loop.drain(time.monotonic())
    assert workers.sizes() == [1]
    assert loop.backlog == 99


def woken_after(loop, woken=None):
    began = time.monotonic()
    loop.wait(woken or threading.Event())
    return time.monotonic() - began


class Event:
    """An event that records the waits, and lets something happen at the third."""

    def __init__(self, happens):
        self.waits = []
        self._happens = happens

    def wait(self, seconds):
        self.waits.append(seconds)
        assert len(self.waits) <= 3, "what happened was not noticed"
        return len(self.waits) == 3 and bool(self._happens())


def test_an_idle_loop_waits_until_it_is_notified(begin):
    loop = begin(sweep_every=timedelta(minutes=10))
    loop.tick()
    event = Event(lambda: True)
    loop.wait(event)
    assert event.waits == [POLL] * 3


def test_a_commit_of_another_process_ends_the_wait(inbox_file, begin):
    loop = begin(sweep_every=timedelta(minutes=10))
    loop.tick()
    event = Event(lambda: inbox_file.insert() and False)
    loop.wait(event)
    assert event.waits == [POLL] * 3


def test_there_is_no_wait_while_full_batches_wait(inbox_file, begin):
    loop = begin(batch_deliveries=1)
    inbox_file.insert(2)
    loop.tick()
    # One of many is enough: a wait would take 10 ms every time, a busy machine only now and then.
    assert min(woken_after(loop) for _ in range(50)) < 0.005


def test_the_wait_is_short_while_deliveries_linger(inbox_file, loop):
    for _ in range(3):
        inbox_file.insert()
        loop.tick()
    woken = threading.Event()
    woken.set()
    assert 0.009 < woken_after(loop, woken) < 10


def test_the_wait_is_short_while_workers_are_busy(inbox_file, loop):
    inbox_file.insert()
    loop.tick()
    assert 0.009 < woken_after(loop) < 10
