import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from ingest.queue.batch import Batch, ack_key, batch_key, lease_key
from ingest.queue.queues import queue
from ingest.relay.outbox import Outbox
from ingest.relay.relay_loop import POLL, RelayLoop

GRACE = timedelta(milliseconds=100)
SWEEP_EVERY = timedelta(milliseconds=10)
SOONEST = timedelta(seconds=5)


class Workers:
    """Takes jobs off a queue and does with them what a test says."""

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
def workers(valkey, door):
    return Workers(valkey, door.inbox_id)


@pytest.fixture
def begin(door, valkey, settings):
    """Begin rounds with nothing but what is on the disk."""
    opened = []

    def rounds(*, sweep_every=SWEEP_EVERY, **changed):
        opened.append(Outbox(door.path))
        changed = {"hold_back": SOONEST, **changed}
        return RelayLoop(opened[-1], valkey, settings.model_copy(update=changed), GRACE, sweep_every)

    yield rounds
    for outbox in opened:
        outbox.close()


@pytest.fixture
def rounds(begin):
    return begin()


def test_one_event_travels_alone_and_at_once(door, rounds, workers):
    door.keep()
    rounds.tick()
    assert workers.sizes() == [1]
    assert datetime.now(UTC) - rounds.last_published_at < timedelta(seconds=10)


def test_many_together_travel_together(door, rounds, workers):
    door.keep(100)
    rounds.tick()
    assert workers.sizes() == [100]


def test_a_batch_grows_while_its_queue_has_enough_jobs(door, rounds, workers):
    for _ in range(10):
        door.keep(10)
        rounds.tick()
    assert workers.sizes() == [10, 10]
    workers.take()
    rounds.tick()
    assert workers.sizes() == [10, 80]


def test_nothing_is_held_back_for_longer_than_a_moment(door, begin, workers, eventually):
    rounds = begin(hold_back=timedelta(seconds=1))
    for _ in range(2):
        door.keep()
        rounds.tick()
    door.keep(5)
    rounds.tick()
    assert workers.sizes() == [1, 1]
    eventually(lambda: rounds.tick() or len(workers.jobs()) == 3)
    assert workers.sizes() == [1, 1, 5]


def test_a_clock_set_back_holds_nothing_back(door, rounds, workers):
    for _ in range(3):
        door.keep(received_at=time.time() + 3600)
        rounds.tick()
    assert workers.sizes() == [1, 1, 1]


def test_a_batch_is_bounded(door, begin, workers):
    door.keep(5)
    rounds = begin(batch_deliveries=3)
    rounds.tick()
    rounds.tick()
    rounds.tick()
    assert workers.sizes() == [3, 2]


def test_a_full_queue_does_not_hold_back_another(door, rounds, workers):
    for _ in range(3):
        door.keep()
        rounds.tick()
    door.keep(queue="urgent")
    rounds.tick()
    assert workers.sizes("sessions") == [1, 1]
    assert workers.sizes("urgent") == [1]


def test_what_does_not_fit_into_redis_waits_however_old(door, begin, workers):
    rounds = begin(batch_bytes=1000, hold_back=timedelta())
    door.keep(40)
    rounds.tick()
    door.keep()
    rounds.tick()
    assert workers.sizes() == [40]
    workers.settle(workers.take())
    rounds.tick()
    assert workers.sizes() == [1]


def test_what_waits_is_counted(door, begin, eventually):
    rounds = begin()
    for _ in range(2):
        door.keep()
        rounds.tick()
    door.keep(7)
    eventually(lambda: rounds.tick() or rounds.backlog == 7, seconds=4)


def test_an_emptied_redis_loses_nothing(door, rounds, workers, eventually):
    door.keep(3)
    door.keep(2, queue="urgent")
    rounds.tick()
    before = set(workers.jobs())
    workers.connection.flushall()
    eventually(lambda: rounds.tick() or (workers.jobs() and workers.jobs("urgent")))
    assert workers.sizes() == [3]
    assert workers.sizes("urgent") == [2]
    assert before.isdisjoint(workers.jobs())


def test_a_worker_that_takes_a_job_and_says_nothing_loses_nothing(door, rounds, workers, eventually):
    door.keep(3)
    rounds.tick()
    taken = workers.take()
    eventually(lambda: rounds.tick() or workers.jobs())
    assert workers.sizes() == [3]
    assert workers.jobs() != [taken.id]


def test_a_batch_that_is_queued_or_worked_on_is_left_alone(door, rounds, workers):
    door.keep()
    rounds.tick()
    taken = workers.take()
    door.keep()
    rounds.tick()
    before = workers.jobs()
    until = time.monotonic() + 5 * GRACE.total_seconds()
    while time.monotonic() < until:
        workers.connection.incr(lease_key(taken.id))
        rounds.tick()
    assert workers.jobs() == before


def test_a_restart_does_not_offer_again_what_is_still_queued(door, rounds, begin, workers):
    door.keep(3)
    rounds.tick()
    before = workers.jobs()
    following = begin()
    until = time.monotonic() + 3 * GRACE.total_seconds()
    while time.monotonic() < until:
        following.tick()
    assert workers.jobs() == before


def test_a_crash_between_the_disk_and_redis_loses_nothing(door, begin, workers, eventually):
    door.keep(3)
    outbox = Outbox(door.path)
    outbox.assign([("never-sent", outbox.next_batch("sessions", 10, 1000))])
    outbox.close()
    rounds = begin()
    eventually(lambda: rounds.tick() or workers.jobs())
    assert workers.sizes() == [3]


def test_a_batch_that_kills_its_workers_is_split_until_only_the_poison_is_left(door, rounds, workers, eventually):
    ids = door.keep(9)
    poison = ids[5]
    sizes, deaths_alone = [], 0
    rounds.tick()
    while True:
        batch = workers.take()
        if batch.poison:
            break
        if poison in [delivery.id for delivery in batch.deliveries]:
            sizes.append(len(batch.deliveries))
            deaths_alone += batch.isolated
            workers.connection.incr(lease_key(batch.id))  # one beat, and never another
        else:
            workers.settle(batch)
        eventually(lambda: rounds.tick() or workers.jobs())
    assert [delivery.id for delivery in batch.deliveries] == [poison]
    assert sizes == [9, 5, 2, 1, 1, 1]
    assert deaths_alone == 3
    workers.settle(batch)
    rounds.tick()
    assert door.count() == 0


def test_halves_are_not_held_back(door, rounds, workers, eventually):
    door.keep(4)
    rounds.tick()
    killer = workers.take()
    workers.connection.incr(lease_key(killer.id))
    for _ in range(2):
        door.keep()
        rounds.tick()
    eventually(lambda: rounds.tick() or len(workers.jobs()) == 4)
    assert workers.sizes() == [1, 1, 2, 2]


def test_old_duplicates_are_forgotten(door, begin):
    (old,) = door.keep(received_at=1_000_000_000)
    (new,) = door.keep()
    begin(duplicates_remembered=timedelta(days=8)).tick()
    assert not door.remembers(old)
    assert door.remembers(new)


def test_duplicates_are_forgotten_a_few_at_a_time(door, begin, eventually):
    old = door.keep(1001, received_at=1_000_000_000)
    rounds = begin()
    rounds.tick()
    left = sum(map(door.remembers, old))
    assert left == 501
    eventually(lambda: rounds.tick() or not any(map(door.remembers, old)))


def test_a_drain_offers_everything_that_is_held_back(door, begin, workers):
    rounds = begin(batch_deliveries=2)
    for _ in range(2):
        door.keep()
        rounds.tick()
    door.keep(5)
    rounds.tick()
    rounds.drain(time.monotonic() + 5)
    assert workers.sizes() == [1, 1, 2, 2, 1]
    assert rounds.backlog == 0


def test_a_drain_ends_in_time(door, begin, workers):
    rounds = begin(batch_deliveries=1)
    door.keep(100)
    rounds.drain(time.monotonic())
    assert workers.sizes() == [1]
    assert rounds.backlog == 99


def woken_after(rounds, woken=None):
    began = time.monotonic()
    rounds.wait(woken or threading.Event())
    return time.monotonic() - began


class Bell:
    """Stands in for what wakes: notes how long it is waited for, and lets something happen at the third time."""

    def __init__(self, happens):
        self.waits = []
        self._happens = happens

    def wait(self, seconds):
        self.waits.append(seconds)
        assert len(self.waits) <= 3, "what happened was not noticed"
        return len(self.waits) == 3 and bool(self._happens())


def test_an_idle_round_rests_until_it_is_woken(begin):
    rounds = begin(sweep_every=timedelta(minutes=10))
    rounds.tick()
    bell = Bell(lambda: True)
    rounds.wait(bell)
    assert bell.waits == [POLL] * 3


def test_a_commit_of_another_process_ends_the_rest(door, begin):
    rounds = begin(sweep_every=timedelta(minutes=10))
    rounds.tick()
    bell = Bell(lambda: door.keep() and False)
    rounds.wait(bell)
    assert bell.waits == [POLL] * 3


def test_there_is_no_rest_while_full_batches_wait(door, begin):
    rounds = begin(batch_deliveries=1)
    door.keep(2)
    rounds.tick()
    # One of many is enough: a rest would take 10 ms every time, a busy machine takes its time now and then.
    assert min(woken_after(rounds) for _ in range(50)) < 0.005


def test_while_it_holds_back_it_looks_again_soon(door, rounds):
    for _ in range(3):
        door.keep()
        rounds.tick()
    woken = threading.Event()
    woken.set()
    assert 0.009 < woken_after(rounds, woken) < 10


def test_while_workers_are_busy_it_looks_again_soon(door, rounds):
    door.keep()
    rounds.tick()
    assert 0.009 < woken_after(rounds) < 10
